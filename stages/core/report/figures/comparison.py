"""Figures that set settings or backbones side by side; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws; an order of settings is stated only where an
interval shows it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.base.names import BASELINE, setting_name
from stages.core.evidence.controls import NOT_RUN
from stages.core.evidence.differences import summary_sentence
from stages.core.evidence.statistics import NOT_SHOWN
from stages.core.report.style import GREY, look, new_figure


def differences(rows: pd.DataFrame) -> tuple[Figure, str]:
    """Every difference in top-1 with its adjusted interval: filled where it is shown, hollow where it contains zero.

    Args:
        rows: differences.csv.
    """
    figure = new_figure(8.4, 1.6 + 0.27 * len(rows))
    panel = figure.subplots()
    _draw_intervals(panel, rows, [" − ".join(_pair(row)) for row in rows.to_dict("records")])
    panel.set_title("Differences between settings, with intervals that hold together")
    shown = rows[rows["verdict"] != NOT_SHOWN].to_dict("records")
    held = "; ".join(_shown(row) for row in shown)
    caption = f"The first setting's top-1 minus the second's, with its adjusted interval. {summary_sentence(rows)}"
    caption += f" Shown: {held} points." if held else ""
    empty = int(rows["low"].isna().sum())
    if empty:
        caption += f" {empty} without a line: there is no interval."
    return figure, caption


def controls(rows: pd.DataFrame) -> tuple[Figure, str]:
    """The pairs of settings that separate the explanations, each with its interval, as in `differences`.

    Args:
        rows: what `controls_table` made of differences.csv; pairs that were not run are left out.
    """
    known = rows[rows["verdict"] != NOT_RUN]
    figure = new_figure(8.4, 1.7 + 0.4 * len(known))
    panel = figure.subplots()
    _draw_intervals(panel, known, [f"{row['first']} − {row['second']}" for row in known.to_dict("records")])
    panel.set_title("Width, projector or basis?")
    shown = int((known["verdict"] != NOT_SHOWN).sum())
    caption = (
        "The first setting's top-1 minus the second's, with its interval, for the pairs that separate the "
        f"explanations: {len(known)} of {len(rows)} were run, {shown or 'none'} of them "
        f"{'show' if shown > 1 else 'shows'} a difference."
    )
    return figure, caption


def _draw_intervals(panel: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    """A line for each interval and a point for each difference; the axis ends where what is drawn ends."""
    panel.axvline(0, color=GREY, lw=1)
    places = np.arange(len(rows))
    shown = (rows["verdict"] != NOT_SHOWN).to_numpy()
    for chosen, drawn, label in ((shown, look(0), "shown"), (~shown, look(3), NOT_SHOWN)):
        if not chosen.any():
            continue
        those, at = rows[chosen], places[chosen]
        panel.hlines(at, those["low"], those["high"], color=drawn.color, lw=1.8)
        face = drawn.color if label == "shown" else "white"
        panel.plot(those["difference"], at, "o", color=drawn.color, mfc=face, ms=6, label=label)
    drawn_values = rows[["difference", "low", "high"]].to_numpy(dtype=float)
    low, high = min(0.0, np.nanmin(drawn_values)), max(0.0, np.nanmax(drawn_values))
    margin = 0.05 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)
    panel.set_yticks(places, names)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set(xlabel="difference in top-1, percentage points")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def lift_widths(runs: pd.DataFrame) -> list[int]:
    """The widths that runs lift to."""
    return sorted(set(runs[runs["strategy"].str.startswith("lift")]["width"]))


def width(runs: pd.DataFrame) -> tuple[Figure, str]:
    """Top-1 against the width that Lift projects to, a line for each objective.

    The baseline is drawn at its own width: the paper counts it as Lift to that width.

    Args:
        runs: runs.csv.
    """
    chosen = runs[runs["strategy"].str.startswith("lift") | (runs["strategy"] == BASELINE)]
    several = chosen["seed"].nunique() > 1
    figure = new_figure(7.4, 3.8)
    panel = figure.subplots()
    for position, (objective, rows) in enumerate(chosen.groupby("objective", sort=False)):
        drawn = look(position)
        means = rows.groupby("width")["top1"].mean()
        panel.plot(means.index, means, color=drawn.color, marker=drawn.marker, ls=drawn.linestyle, label=str(objective))
        if several:
            panel.plot(rows["width"], rows["top1"], ".", color=drawn.color, alpha=0.5, ms=5)
    teacher = int(chosen["teacher_width"].iloc[0])
    panel.axvline(teacher, color=GREY, ls=":", label=f"teacher's width, {teacher}")
    widths = sorted(set(chosen["width"]))
    panel.set_xticks(widths)
    panel.set(xlabel="width of the last map, channels", ylabel="top-1, %", title="Lift: top-1 by width")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="objective")
    caption = (
        f"Top-1 of Lift to {', '.join(map(str, widths))} channels{', means over seeds (points: seeds)' * several}; the "
        f"narrowest is the baseline where it was trained. The dotted line is the teacher's width, {teacher}. Figure "
        "`differences` shows which differences are more than chance."
    )
    return figure, caption


def _pair(row: Mapping[Any, Any]) -> tuple[str, str]:
    return (
        setting_name(row["strategy"], row["objective"]),
        setting_name(row["against_strategy"], row["against_objective"]),
    )


def _shown(row: Mapping[Any, Any]) -> str:
    least, most = sorted((abs(row["low"]), abs(row["high"])))
    return f"{_pair(row)[0]} is {row['verdict']} than {_pair(row)[1]} by {least:.2f} to {most:.2f}"
