"""Figures that set settings or backbones side by side; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws, and no order is told but what an
interval shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stages.core.names import BASELINE, setting_name
from stages.core.statistics import NOT_SHOWN, told
from stages.core.style import GREY, LINES, PALETTE, look, new_figure

WIDEST = 100.0  # points: two accuracies cannot differ by more


def differences(rows: pd.DataFrame) -> tuple[Figure, str]:
    """Every difference in top-1 with its adjusted interval: filled where it is shown, hollow where that holds zero.

    Args:
        rows: differences.csv.
    """
    figure = new_figure(8.4, 1.6 + 0.27 * len(rows))
    panel = figure.subplots()
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
    widest = np.nanmax(rows[["difference", "low", "high"]].abs().to_numpy())
    limit = min(WIDEST, 1.08 * widest) or 1.0
    panel.set_xlim(-limit, limit)
    panel.set_yticks(places, [" − ".join(_pair(row)) for row in rows.to_dict("records")])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set(xlabel="difference in top-1, percentage points")
    panel.set_title("Differences between settings, with intervals that hold together")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    held = "; ".join(_shown(row) for row in rows[shown].to_dict("records"))
    caption = f"The first setting's top-1 minus the second's, with its adjusted interval. {told(rows)}"
    caption += f" Shown: {held} points." if held else ""
    empty = int(rows["low"].isna().sum())
    if empty:
        caption += f" {empty} without a line: there is no interval."
    if widest > WIDEST:
        caption += f" Intervals are cut at ±{WIDEST:.0f} points."
    return figure, caption


def lift_widths(runs: pd.DataFrame) -> list[int]:
    """The widths that runs lift to."""
    return sorted(set(runs[runs["strategy"].str.startswith("lift")]["width"]))


def width(runs: pd.DataFrame) -> tuple[Figure, str]:
    """Top-1 against the width that Lift projects to, a line for each objective.

    The baseline stands at its own width: the paper counts it as Lift to that.

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
        f"narrowest is the baseline where it was trained. The dotted line is the teacher's width, {teacher}. Which "
        "differences are more than chance, figure `differences` says."
    )
    return figure, caption


def sep_backbones(curves: pd.DataFrame, sep: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """The SEP curves of all backbones, full spectrum, and their distances from white noise.

    Args:
        curves: sep_curves.csv.
        sep: sep.json.
    """
    figure = new_figure(10.4, 4.4 + 0.1 * len(sep))
    left, right = figure.subplots(1, 2, sharex=True)
    left.plot([0, 1], [0, 1], color=GREY, ls=":", label="white noise")
    right.axhline(0, color=GREY, ls=":")
    distances = {}
    for position, (backbone, of) in enumerate(sep.items()):
        rows = curves[(curves["backbone"] == backbone) & (curves["spectrum"] == "full")].sort_values("frequency")
        share, drawn = rows["share_of_bins"], look(position)
        line = LINES[(position + position // len(PALETTE)) % len(LINES)]  # a colour that comes again gets another line
        name = f"{backbone}{' (random weights)' if of['weights'] == 'random' else ''}"
        left.plot(share, rows["observed"], color=drawn.color, ls=line, lw=1.3, label=name)
        right.plot(share, rows["observed"] - share, color=drawn.color, ls=line, lw=1.3)
        band = rows[["permuted_p5", "permuted_p95"]].sub(share, axis=0)
        right.fill_between(share, band["permuted_p5"], band["permuted_p95"], color=drawn.color, alpha=0.12, lw=0)
        distances[backbone] = float((rows["observed"] - share).abs().max())
    left.set(ylabel="mean share of a token's energy", title="SEP", xlim=(0, 1), ylim=(0, 1.02))
    right.set(title="SEP minus the diagonal; bands: permuted channels, 5–95 %")
    for panel in (left, right):
        panel.set_xlabel("share of the frequency bins")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="x-small")
    figure.suptitle("Spectral Energy Pattern of every backbone, full spectrum")
    largest = "; ".join(f"`{backbone}` {distance:.3f}" for backbone, distance in distances.items())
    caption = (
        f"Mean SEP of the last block of {len(sep)} backbone{'' if len(sep) == 1 else 's'}, full spectrum. Right: "
        f"the same minus the diagonal, over the band of randomly permuted channels. Largest distances: {largest}."
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
