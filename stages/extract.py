"""Extract a backbone's patch tokens on the analysis sample: of every block, or of the last one."""

from typing import TYPE_CHECKING

from stages import arguments, messages, missing
from stages.core.base.errors import full_disk_reported, run
from stages.core.base.files import atomic_folder, read_json
from stages.core.config import params
from stages.core.features.store import RECORD
from stages.paths import EXTRACT, MANIFEST, PARAMS, PREPARE, WEIGHTS

if TYPE_CHECKING:
    import torch

BATCH, CPU_BATCH = 64, 4  # images per batch; a CPU is fastest when attention's tensors fit in its cache


def main() -> None:
    """Write the features of the backbone named on the command line, on every visible GPU."""
    parameters = params.load(PARAMS)
    parser = arguments.of_backbone(__doc__, parameters.analysis.backbones)
    parser.add_argument("--blocks", choices=("all", "last"), help="default: as analysis.layerwise says")
    backbone, blocks = vars(parser.parse_args()).values()
    layerwise = blocks == "all" if blocks else backbone in parameters.analysis.layerwise
    if missing.passed_on(WEIGHTS / f"{backbone}.json", EXTRACT / backbone):
        return
    from stages.core.runtime import distributed  # here and below: torch and timm, which take seconds

    distributed.launch(extract, parameters, backbone, layerwise)


def batch_size(device: "torch.device") -> int:
    """Images per batch: a choice of speed and memory that changes results by rounding alone."""
    return CPU_BATCH if device.type == "cpu" else BATCH


def extract(parameters: params.Params, backbone: str, layerwise: bool) -> None:
    """Extract this process's share of the sample."""
    from stages.core.data.batches import evaluation_batches
    from stages.core.data.dataset import image_list
    from stages.core.features import extraction
    from stages.core.runtime import distributed, machine
    from stages.opening import open_model

    sample = image_list(parameters.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)
    with distributed.joined() as world:
        if world.is_main:
            messages.begin(f"extract {backbone}", f"features of {len(sample.files):,} images")
        model, provenance = open_model(backbone, parameters.analysis)
        model = model.to(world.device)
        batches = evaluation_batches(
            sample, model, batch=batch_size(world.device), workers=machine.workers(), world=world
        )
        with atomic_folder(EXTRACT / backbone) if world.is_main else full_disk_reported(EXTRACT / backbone) as folder:
            extraction.extract(
                model,
                messages.bar(batches, f"extract {backbone}", "batch") if world.is_main else batches,
                world.broadcast(folder),
                images=len(sample.files),
                world=world,
                layerwise=layerwise,
                provenance=provenance,
            )
        if world.is_main:
            found = read_json(EXTRACT / backbone / RECORD)["blocks"]
            shape = " × ".join(str(found[-1][name]) for name in ("tokens", "channels"))
            messages.end(f"extract {backbone}", f"{len(found)} blocks, the last of {shape} values", EXTRACT / backbone)


if __name__ == "__main__":
    run(main)
