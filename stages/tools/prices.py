"""What training at the paper's scale costs, from one measured rate and the operations that were counted."""

from pathlib import Path

from stages.core.base.names import BASELINE, LABELS_ONLY
from stages.core.evidence.effort import EPOCHS, PAPER, STUDENT, Setting, of_student, read_rates, training
from stages.paths import RESULTS
from stages.tools.markdown import table

OBJECTIVES = (LABELS_ONLY, "mse", "spectral", "softkd", "softkd_mse", "softkd_spectral")
GRIDS: dict[str, tuple[Setting, ...]] = {
    "the paper's table: `none` and `spectral` for the baseline; for Lift and WideLast all but `spectral`": PAPER,
    "`objective=paper`: three strategies, six objectives": tuple(
        (strategy, objective) for strategy in (BASELINE, "lift", "widen") for objective in OBJECTIVES
    ),
}


def prices(performance: Path) -> str:
    """GPU hours of the paper's grids, with a teacher pass for each run and with one for all.

    Args:
        performance: the folder of what the benchmarks measured.
    """
    rates, rows = read_rates(performance, RESULTS), []
    if rates.training is None:
        return "Not measured: it needs `reports/performance/training-imagenet-cuda.json`.\n"
    for name, settings in GRIDS.items():
        apart, side_by_side = (training(rates, settings, together=together)[0] or 0 for together in (False, True))
        hours = [f"{hours:.0f} h" for hours in (apart, side_by_side)]
        rows.append([name, str(len(settings)), *hours, f"{apart / side_by_side:.2f}"])
    row = of_student(rates.training)
    return (
        f"{table(['grid, one seed', 'runs', 'apart', 'side by side', 'ratio'], rows)}\n"
        f"GPU hours on one {rates.training['hardware']['gpus'][0]['name']}, {EPOCHS} epochs: the operations of each "
        f"forward and backward pass, at the rate measured for {STUDENT} with {rates.training['objective']} "
        f"({row['ours']['images_per_s']['median']:,.0f} images/s, "
        "compiled). Evaluation comes on top; loading has to keep up. Side by side was measured at 99 % of what the "
        "operations promise, not compiled ([performance](../../reports/performance.md#students-side-by-side)).\n"
    )
