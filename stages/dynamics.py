"""What happens block by block in a model: in one that is analysed, or in every student, also at epochs that were kept.

On the analysis sample: frequency intensity, token entropy, activations and gradients, as "Distillation Dynamics"
(2025-11) defines them.
"""

from typing import Any

from stages import arguments, messages, missing
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_csv
from stages.core.base.names import STUDENTS, plural
from stages.core.config import params
from stages.paths import DYNAMICS, MANIFEST, PARAMS, PREPARE, WEIGHTS, run_folder

BATCH = 64  # images at a time; it decides memory, not results
NAMES = ("run", "strategy", "objective", "seed")


def main() -> None:
    """Write one row for each block of each model, and another table of the kept epochs' models."""
    settings = params.load(PARAMS)
    name = arguments.model(__doc__, settings.plan["dynamics"])
    if missing.passed_on(WEIGHTS / f"{name}.json", DYNAMICS / name):
        return
    from torch import nn  # here: torch and timm, which take seconds

    from stages.core.analysis import dynamics
    from stages.core.data.batches import evaluation_batches
    from stages.core.data.dataset import image_list
    from stages.core.models import folders
    from stages.core.runtime import machine
    from stages.opening import open_classifier

    runs = settings.grid.listed() if name == STUDENTS else []
    of = plural(len(runs), "student") if runs else "the model"
    messages.begin(f"dynamics {name}", f"every block of {of}")
    device = machine.device()
    machine.share_cores(device)
    sample = image_list(settings.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)

    def measured(model: nn.Module, names: dict[str, Any]) -> list[dict[str, Any]]:
        model = model.to(device)
        batches = evaluation_batches(sample, model, batch=BATCH, workers=machine.workers())
        return [{**names, **row} for row in dynamics.measure(model, batches, device)]

    rows, kept_rows = [], []
    if not runs:
        rows = measured(open_classifier(name, settings)[0], {"run": name, "strategy": name})
    for one in messages.bar(runs, f"dynamics {name}", "student"):
        names = {"run": one.name, **one._asdict()}
        rows += measured(folders.load(run_folder(one)), names)
        for epoch, folder in folders.kept_epochs(run_folder(one)).items():
            kept_rows += measured(folders.load(folder), {**names, "epoch": epoch})
    columns = ("block", *dynamics.MEASURES)
    with atomic_folder(DYNAMICS / name) as out:
        write_csv(out / "blocks.csv", rows, columns=(*NAMES, *columns))
        if kept_rows:
            write_csv(out / "kept_blocks.csv", kept_rows, columns=(*NAMES, "epoch", *columns))
    blocks = len(rows) + len(kept_rows)
    messages.end(
        f"dynamics {name}", f"frequencies, entropy, activations and gradients of {blocks} blocks", DYNAMICS / name
    )


if __name__ == "__main__":
    run(main)
