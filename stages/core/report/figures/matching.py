"""What matching the teacher's features changed, against how far it moved them; every number is read from the data."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.base.names import setting_name
from stages.core.evidence.applied import PASSED, check, means, without_loss
from stages.core.evidence.questions import Questions
from stages.core.report.style import GREY, looks, new_figure

LEFT = -60.0  # percent; what moved farther away is drawn at the edge


def gains(runs: pd.DataFrame, table: pd.DataFrame, register: Questions) -> pd.DataFrame:
    """Every setting with a feature loss: percent of the way, top-1 gained on the same student without it, interval.

    Args:
        runs: runs.csv with `applied.APPLIED_COLUMNS`.
        table: questions.csv, or `questions_table`, whose intervals are taken.
        register: the questions.

    Returns:
        Columns strategy, objective, moved, gained, low, high, checked; without a row where a way or a gain is unknown.
    """
    known = means(runs)
    intervals = {row["contrast"]: (row["low"], row["high"]) for row in table.to_dict("records")}
    rows = []
    for strategy, objective in dict.fromkeys(zip(runs["strategy"], runs["objective"], strict=True)):
        of = runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)]
        moved = float(np.asarray(known.at[(strategy, objective), "own_moved"]))
        before = [without_loss(runs, run) for run in of.to_dict("records")]
        if np.isnan(moved) or any(one is None for one in before):
            continue
        others = runs.set_index("run").loc[[str(one) for one in before]]
        gained = float(np.mean(of["top1"].to_numpy() - others["top1"].to_numpy()))
        contrast = f"{setting_name(strategy, objective)} − {setting_name(strategy, others['objective'].iloc[0])}"
        low, high = intervals.get(contrast, (np.nan, np.nan))
        checked = check(runs, [(strategy, objective)], register.checks, register.passes_at)[0]
        rows.append((strategy, objective, moved, gained, low, high, checked))
    columns = ["strategy", "objective", "moved", "gained", "low", "high", "checked"]
    return pd.DataFrame(rows, columns=columns)


def matching(runs: pd.DataFrame, table: pd.DataFrame, register: Questions) -> tuple[Figure, str]:
    """Top-1 gained by a feature loss against how far it moved the features, one mark for each setting.

    Args:
        runs, table, register: as in `gains`.
    """
    rows = gains(runs, table, register)
    figure = new_figure(8.4, 4.6)
    panel = figure.subplots()
    panel.axhline(0, color=GREY, lw=1)
    panel.axvspan(LEFT - 10, register.passes_at, color="#F0F0F0", lw=0, zorder=0)
    drawn = looks(runs["strategy"])
    right = max(100.0, rows["moved"].max()) + 5
    panel.set_xlim(LEFT - 5, right)
    for strategy, of in rows.groupby("strategy", sort=False):
        look = drawn[str(strategy)]
        at = of["moved"].clip(lower=LEFT)
        panel.vlines(at, of["low"], of["high"], color=look.color, lw=1.6)
        for filled, face in ((True, look.color), (False, "white")):
            those = (of["checked"] == PASSED) == filled
            label = str(strategy) if those.iloc[0] else None
            options = {"color": look.color, "mfc": face, "mew": 1.6, "ms": 8, "ls": "none"}
            panel.plot(at[those], of["gained"][those], marker=look.marker, label=label, **options)
    _names(panel, rows, {name: look.color for name, look in drawn.items()})
    panel.set(
        xlabel="how far the loss moved the features, % of the way from training without it to what is possible\n"
        f"grey: less than {register.passes_at:g} %, not applied strongly enough to say",
        ylabel="top-1 gained by matching, points",
    )
    panel.set_title("What matching features changed, and how far it moved them")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="student")
    passed = rows[rows["checked"] == PASSED]
    told = "; ".join(
        f"{row['objective']} on {row['strategy']} moved {row['moved']:.0f} % of the way, top-1 changed by "
        f"{row['gained']:+.2f}"
        for row in passed.to_dict("records")
    )
    caption = (
        "Top-1 of each student with a feature loss minus that of the same student without it, means over seeds, "
        "against how far its loss moved the features; lines are the intervals of the registered questions. "
        f"{len(passed) or 'None'} of {len(rows)} {'passes' if len(passed) == 1 else 'pass'} the check (filled): "
        f"{register.passes_at:g} % of the way, and with every direction counted alike. A mark at {LEFT:g} moved that "
        "far away, or farther."
    )
    return figure, caption + (f" {told[0].upper()}{told[1:]}." if told else "")


def _names(panel: Axes, rows: pd.DataFrame, colors: dict[str, str]) -> None:
    """Write each mark's objective beside it, on the side where the next mark is farther away."""
    low, high = panel.get_ylim()
    placed: list[tuple[float, float]] = []
    for row in rows.sort_values("gained").to_dict("records"):
        x, y = max(row["moved"], LEFT), row["gained"]
        while any(abs(x - a) < 22 and abs(y - b) < 0.055 * (high - low) for a, b in placed):
            y += 0.02 * (high - low)
        placed.append((x, y))
        panel.annotate(
            row["objective"],
            (x, y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1},
            color=colors[row["strategy"]],
        )
