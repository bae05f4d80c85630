"""What training at the paper's scale costs, from one measured rate and the operations that were counted."""

from collections.abc import Mapping, Sequence

from stages.core.base.files import read_json
from stages.paths import RESULTS
from stages.tools.markdown import table
from stages.tools.performance import EPOCHS, IMAGES
from stages.tools.performance_tables import STUDENT, Measured, of_student

Setting = tuple[str, bool]  # a student's strategy, and whether its objective asks a teacher
ASKING = (False, True, True, True, True, True)  # of the paper's six objectives, `none` first
GRIDS: dict[str, list[Setting]] = {
    "the paper's table: `none` and `spectral` for the baseline; for Lift and WideLast all but `spectral`": [
        *[("baseline", taught) for taught in ASKING[:2]],
        *[(strategy, taught) for strategy in ("lift", "widen") for taught in ASKING[:5]],
    ],
    "`objective=paper`: three strategies, six objectives": [
        (strategy, taught) for strategy in ("baseline", "lift", "widen") for taught in ASKING
    ],
}


def prices(records: Measured) -> str:
    """GPU hours of the paper's grids, with a teacher pass for each run and with one for all."""
    record = records.get("training-imagenet-cuda")
    if record is None:
        return "Not measured: it needs `reports/performance/training-imagenet-cuda.json`.\n"
    students = {name: row["flops"] for name, row in read_json(RESULTS / "cost.json").items()}
    row = of_student(record)
    rate = row["ours"]["images_per_s"]["median"]
    teacher = row["flops_per_image"] - 3 * students[STUDENT]
    per_s = rate * row["flops_per_image"]
    gpu, rows = record["hardware"]["gpus"][0]["name"], []
    for name, settings in GRIDS.items():
        apart, together = operations(settings, students, teacher)
        hours = [f"{total * EPOCHS * IMAGES / per_s / 3600:.0f} h" for total in (apart, together)]
        rows.append([name, str(len(settings)), *hours, f"{apart / together:.2f}"])
    header = ["grid, one seed", "runs", "apart", "side by side", "ratio"]
    return (
        f"{table(header, rows)}\n"
        f"GPU hours on one {gpu}, {EPOCHS} epochs: the operations of each forward and "
        f"backward pass, at the rate measured for {STUDENT} with {record['objective']} ({rate:,.0f} images/s, "
        f"compiled). Evaluation comes on top; loading has to keep up. Side by side was measured at 99 % of what the "
        "operations promise, not compiled ([performance](../../reports/performance.md#students-side-by-side)).\n"
    )


def operations(settings: Sequence[Setting], students: Mapping[str, int], teacher: int) -> tuple[int, int]:
    """Operations for each image: with a teacher pass for each run that asks one, and with one for all of them.

    Args:
        settings: of the runs.
        students: operations of a forward pass, by strategy; a backward pass takes twice as many.
        teacher: operations of the teacher's forward pass.
    """
    own = sum(3 * students[strategy] for strategy, _ in settings)
    asking = sum(taught for _, taught in settings)
    return own + asking * teacher, own + bool(asking) * teacher
