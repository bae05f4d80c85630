"""What matching the teacher's features changed, against how far it moved them; every number is read from the data."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.core.base.names import setting_name
from stages.core.evidence.applied import PASSED, check, means, without_loss
from stages.core.evidence.questions import Questions
from stages.core.report.style import GREY, MARKERS, looks, new_figure

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
    asked = {row["contrast"]: (row["low"], row["high"], row["check"]) for row in table.to_dict("records")}
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
        checked = check(runs, [(strategy, objective)], register.checks, register.passes_at)[0]
        rows.append((strategy, objective, moved, gained, *asked.get(contrast, (np.nan, np.nan, checked))))
    columns = ["strategy", "objective", "moved", "gained", "low", "high", "checked"]
    return pd.DataFrame(rows, columns=columns)


def matching(runs: pd.DataFrame, table: pd.DataFrame, register: Questions, teacher: str = "") -> tuple[Figure, str]:
    """Top-1 gained by a feature loss against how far it moved the features, one mark for each setting.

    Args:
        runs, table, register: as in `gains`.
        teacher: what `weak_teacher` of the tables of questions says.
    """
    rows = gains(runs, table, register)
    figure = new_figure(8.4, 4.6)
    panel = figure.subplots()
    panel.axhline(0, color=GREY, lw=1)
    at = rows["moved"].clip(lower=LEFT)
    left = min(0.0, at.min()) - 5
    panel.axvspan(left, register.passes_at, color="#F0F0F0", lw=0, zorder=0)
    panel.set_xlim(left, max(100.0, at.max()) + 5)
    drawn = looks(rows["strategy"])
    shapes = dict(zip(dict.fromkeys(rows["objective"]), MARKERS, strict=False))
    for row, x in zip(rows.to_dict("records"), at, strict=True):
        color = drawn[row["strategy"]].color
        face = color if row["checked"] == PASSED else "white"
        panel.vlines(x, row["low"], row["high"], color=color, lw=1.6)
        panel.plot(x, row["gained"], color=color, mfc=face, mew=1.6, ms=8, marker=shapes.get(row["objective"], "o"))
    panel.set(
        xlabel="features moved, % of the way to what is possible\n"
        f"grey: less than {register.passes_at:g} %, not applied strongly enough to say",
        ylabel="top-1 gained by matching, points",
    )
    panel.set_title("What matching features changed, and how far it moved them")
    entries = {name: Line2D([], [], color=look.color, marker="s", ls="none", ms=8) for name, look in drawn.items()}
    figure.legend(entries.values(), entries, loc="outside right upper", title="student")
    entries = {name: Line2D([], [], color=GREY, mfc="white", marker=shape, ls="none") for name, shape in shapes.items()}
    figure.legend(entries.values(), entries, loc="outside right lower", title="loss")
    passed = rows[rows["checked"] == PASSED]
    told = "; ".join(
        f"`{row['objective']}` on `{row['strategy']}` moved {row['moved']:.0f} % of the way, top-1 changed by "
        f"{row['gained']:+.2f}"
        for row in passed.to_dict("records")
    )
    caption = (
        f"Top-1 of each student{teacher} (colour) with a feature loss (shape) minus that of the same student without "
        "it, means over seeds, against how far its loss moved the features; lines are the intervals of the registered "
        "questions. "
        f"{len(passed) or 'None'} of {len(rows)} {'passes' if len(passed) == 1 else 'pass'} the check (filled): "
        f"{register.passes_at:g} % of the way, and with every direction counted alike. A mark at {LEFT:g} moved that "
        "far away, or farther."
    )
    return figure, caption + (f" Passed: {told}." if told else "")
