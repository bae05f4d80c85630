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
from stages.core.evidence.differences import summary_sentence
from stages.core.evidence.statistics import NOT_SHOWN
from stages.core.report.style import GREY, label_ends, levels, new_figure


def differences(rows: pd.DataFrame, runs: pd.DataFrame) -> tuple[Figure, str]:
    """Every difference in top-1 with its adjusted interval: filled where it is shown, hollow where it contains zero.

    Args:
        rows: differences.csv.
        runs: runs.csv, for the differences of single seeds.
    """
    figure = new_figure(8.4, 1.6 + 0.3 * len(rows))
    panel = figure.subplots()
    seeds = [seed_differences(runs, *_settings(row)) for row in rows.to_dict("records")]
    for place, of in enumerate(seeds):
        panel.plot(of, np.full(len(of), place + 0.22), "|", color=GREY, ms=6, mew=1.2)
    _draw_intervals(panel, rows, [" − ".join(_pair(row)) for row in rows.to_dict("records")], np.concatenate(seeds))
    panel.set_title("Differences between settings")
    shown = rows[rows["verdict"] != NOT_SHOWN].to_dict("records")
    held = "; ".join(_shown(row) for row in shown)
    caption = (
        "The first setting's top-1 minus the second's, with its adjusted interval; ticks below it are seeds that both "
        f"have. An interval wholly on one side of zero is a difference, any other is none. {summary_sentence(rows)}"
    )
    caption += f" Shown: {held} points." if held else ""
    empty = int(rows["low"].isna().sum())
    if empty:
        caption += f" {empty} without a line: there is no interval."
    return figure, caption


def _draw_intervals(panel: Axes, rows: pd.DataFrame, names: list[str], others: np.ndarray | None = None) -> None:
    """A line for each interval and a point for each difference; the axis ends where these and `others` end."""
    panel.axvline(0, color=GREY, lw=1)
    places = np.arange(len(rows))
    shown = (rows["verdict"] != NOT_SHOWN).to_numpy()
    for chosen, color, face in ((shown, "black", "black"), (~shown, GREY, "white")):
        those, at = rows[chosen], places[chosen]
        panel.hlines(at, those["low"], those["high"], color=color, lw=1.8)
        panel.plot(those["difference"], at, "o", color=color, mfc=face, ms=6)
    drawn_values = rows[["difference", "low", "high"]].to_numpy(dtype=float).ravel()
    if others is not None:
        drawn_values = np.append(drawn_values, others)
    low, high = min(0.0, np.nanmin(drawn_values)), max(0.0, np.nanmax(drawn_values))
    margin = 0.05 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)
    panel.set_yticks(places, names)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set(xlabel=f"difference in top-1, percentage points\nfilled: shown · hollow: {NOT_SHOWN}")


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
    ends = []
    by_objective = list(chosen.groupby("objective", sort=False))
    for drawn, (objective, rows) in zip(levels(len(by_objective)), by_objective, strict=True):
        means = rows.groupby("width")["top1"].mean()
        panel.plot(means.index, means, color=drawn.color, marker=drawn.marker, ls=drawn.linestyle, label=str(objective))
        ends.append((means.index[-1], means.iloc[-1], str(objective), drawn.color))
        if several:
            panel.plot(rows["width"], rows["top1"], ".", color=drawn.color, alpha=0.5, ms=5)
    teacher = int(chosen["teacher_width"].iloc[0])
    panel.axvline(teacher, color=GREY, ls=":")
    widths = sorted(set(chosen["width"]))
    panel.set_xticks(widths)
    panel.set(xlabel="width of the last map, channels (dotted: the teacher's)", ylabel="top-1, %")
    panel.set_title("Lift: top-1 by width, a line for each objective")
    label_ends(panel, ends)
    caption = (
        f"Top-1 of Lift to {', '.join(map(str, widths))} channels{', means over seeds (points: seeds)' * several}; the "
        f"narrowest is the baseline where it was trained. The dotted line is the teacher's width, {teacher}. Figure "
        "`differences` shows which differences are more than chance."
    )
    return figure, caption


def seed_differences(runs: pd.DataFrame, first: tuple[str, str], second: tuple[str, str]) -> np.ndarray:
    """Top-1 of the first setting minus that of the second, in points, for each seed that both have.

    Args:
        runs: runs.csv.
        first, second: strategies and objectives.
    """
    one, other = (
        runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)].set_index("seed")["top1"]
        for strategy, objective in (first, second)
    )
    return one.sub(other).dropna().to_numpy(dtype=float)


def _settings(row: Mapping[Any, Any]) -> tuple[tuple[str, str], tuple[str, str]]:
    return (row["strategy"], row["objective"]), (row["against_strategy"], row["against_objective"])


def _pair(row: Mapping[Any, Any]) -> tuple[str, str]:
    first, second = _settings(row)
    return setting_name(*first), setting_name(*second)


def _shown(row: Mapping[Any, Any]) -> str:
    least, most = sorted((abs(row["low"]), abs(row["high"])))
    return f"{_pair(row)[0]} is {row['verdict']} than {_pair(row)[1]} by {least:.2f} to {most:.2f}"
