"""What happens block by block in the teacher and in every trained student, on the analysis sample.

Frequency intensity, token entropy, activations and gradients, as "Distillation Dynamics" (2025-11) defines them.
"""

from itertools import product
from typing import Any

from stages.core.analysis import dynamics
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_csv
from stages.core.base.names import TEACHER, run_name
from stages.core.config import params
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.runtime import machine
from stages.paths import DYNAMICS, MANIFEST, PARAMS, PREPARE, TEACH, TRAIN

BATCH = 64  # images at a time; it decides memory, not results
COLUMNS = ("run", "strategy", "objective", "seed", "block", *dynamics.MEASURES)


def main() -> None:
    """Write one row for each block of each model that params name."""
    settings = params.load(PARAMS)
    device = machine.device()
    machine.share_cores(device)
    sample = image_list(settings.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)
    models: list[tuple[dict[str, Any], Any]] = [({"run": TEACHER, "strategy": TEACHER}, TEACH)]
    for strategy, objective, seed in product(settings.strategy.names, settings.objective.names, settings.seeds):
        name = run_name(strategy, objective, seed)
        models.append(({"run": name, "strategy": strategy, "objective": objective, "seed": seed}, TRAIN / name))
    rows = []
    for names, folder in models:
        model = folders.load(folder).to(device)
        batches = evaluation_batches(sample, model, batch=BATCH, workers=machine.workers())
        rows += [{**names, **row} for row in dynamics.measure(model, batches, device)]
    with atomic_folder(DYNAMICS) as out:
        write_csv(out / "blocks.csv", rows, columns=COLUMNS)


if __name__ == "__main__":
    run(main)
