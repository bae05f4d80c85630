"""Extract a backbone's patch tokens after every block, on the analysis sample."""

from stages import arguments
from stages.core import features, machine, models, params
from stages.core.errors import run
from stages.core.files import atomic_folder
from stages.core.loaders import evaluation_batches
from stages.images import image_list
from stages.paths import EXTRACT, TEACH

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write the features of the backbone that the command line names."""
    given = params.load()
    backbone = arguments.backbone(__doc__, given.analysis.backbones)
    sample = image_list(given.dataset, "sample")
    device = machine.device()
    model = models.load(TEACH).to(device)
    batches = evaluation_batches(sample, model, batch=BATCH, workers=machine.workers())
    with atomic_folder(EXTRACT / backbone) as folder:
        features.extract(model, batches, folder, images=len(sample.files), device=device)


if __name__ == "__main__":
    run(main)
