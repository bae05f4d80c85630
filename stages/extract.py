"""Extract a backbone's patch tokens on the analysis sample: of every block, or of the last one."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from stages import arguments
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, sha256
from stages.core.base.names import TEACHER
from stages.core.config import params, schema
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.features import extraction
from stages.core.models import backbones, folders
from stages.core.runtime import distributed, machine
from stages.paths import EXTRACT, MANIFEST, PARAMS, PREPARE, TEACH

BATCH, CPU_BATCH = 64, 4  # images at a time; a CPU is fastest while attention's tensors stay in its cache
SEED = 0  # of random weights


def load(backbone: str, analysis: schema.Analysis) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a backbone's name, and what it is."""
    if backbone == TEACHER:
        weights = {"sha256": sha256(TEACH / "model.safetensors")}
        return folders.load(TEACH), folders.provenance(TEACH) | weights
    img_size = analysis.img_size.get(backbone)
    if analysis.weights == "random":
        model, provenance = backbones.random(backbone, {}, seed=SEED, img_size=img_size)
    else:
        model, provenance = backbones.pretrained(backbone, {}, folder=machine.weights(), img_size=img_size)
    return model, provenance.record()


def batch_size(device: torch.device) -> int:
    """Images at a time: it decides speed and memory, and of the results the rounding."""
    return CPU_BATCH if device.type == "cpu" else BATCH


def main() -> None:
    """Write the features of the backbone that the command line names, by every GPU that is visible."""
    given = params.load(PARAMS)
    distributed.launch(extract, given, arguments.backbone(__doc__, given.analysis.backbones))


def extract(given: params.Params, backbone: str) -> None:
    """One process's part of the extraction."""
    sample = image_list(given.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)
    with distributed.joined() as world:
        model, provenance = load(backbone, given.analysis)
        model = model.to(world.device)
        batches = evaluation_batches(
            sample, model, batch=batch_size(world.device), workers=machine.workers(), world=world
        )
        with atomic_folder(EXTRACT / backbone) if world.primary else nullcontext() as own:
            extraction.extract(
                model,
                batches,
                world.broadcast(own),
                images=len(sample.files),
                world=world,
                layerwise=backbone in given.analysis.layerwise,
                provenance=provenance,
            )


if __name__ == "__main__":
    run(main)
