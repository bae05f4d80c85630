"""What happens block by block in the teacher, in every trained student, and in students at epochs that were kept.

On the analysis sample: frequency intensity, token entropy, activations and gradients, as "Distillation Dynamics"
(2025-11) defines them.
"""

from pathlib import Path
from typing import Any

from stages import messages
from stages.core.analysis import dynamics
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_csv
from stages.core.base.names import TEACHER
from stages.core.config import params
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.runtime import machine
from stages.paths import DYNAMICS, MANIFEST, PARAMS, PREPARE, TEACH, run_folder

BATCH = 64  # images at a time; it decides memory, not results
NAMES = ("run", "strategy", "objective", "seed")
MEASURES = ("block", *dynamics.MEASURES)


def main() -> None:
    """Write one row for each block of each model that params name, and another table of the kept epochs' models."""
    settings = params.load(PARAMS)
    messages.begin("dynamics", f"every block of the teacher and of {len(settings.grid.listed())} students")
    device = machine.device()
    machine.share_cores(device)
    sample = image_list(settings.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)

    def measured(folder: Path, names: dict[str, Any]) -> list[dict[str, Any]]:
        model = folders.load(folder).to(device)
        batches = evaluation_batches(sample, model, batch=BATCH, workers=machine.workers())
        return [{**names, **row} for row in dynamics.measure(model, batches, device)]

    rows = measured(TEACH, {"run": TEACHER, "strategy": TEACHER})
    kept_rows = []
    for one in messages.bar(settings.grid.listed(), "dynamics", "student"):
        names = {"run": one.name, **one._asdict()}
        rows += measured(run_folder(one), names)
        for epoch, folder in folders.kept_epochs(run_folder(one)).items():
            kept_rows += measured(folder, {**names, "epoch": epoch})
    with atomic_folder(DYNAMICS) as out:
        write_csv(out / "blocks.csv", rows, columns=(*NAMES, *MEASURES))
        if kept_rows:
            write_csv(out / "kept_blocks.csv", kept_rows, columns=(*NAMES, "epoch", *MEASURES))
    blocks = len(rows) + len(kept_rows)
    messages.end("dynamics", f"frequencies, entropy, activations and gradients of {blocks} blocks", DYNAMICS)


if __name__ == "__main__":
    run(main)
