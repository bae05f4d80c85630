"""Figures of the trained students; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws. Results may hold any
subset of strategies, objectives and seeds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.evidence.differences import summary_sentence
from stages.core.report.style import CHARACTER, GREY, label_ends, looks, new_figure

SHARE = 0.8  # of an objective's width, that its strategies fill
WIDEST = 11.0  # inches; a figure that would have to be wider has a legend
LOG_SPAN = 20.0  # a range of values wider than this factor gets a logarithmic axis


def accuracy(runs: pd.DataFrame, teacher: Mapping[str, Any], differences: pd.DataFrame) -> tuple[Figure, str]:
    """Top-1 of every strategy and objective: a point for each seed, a bar at their mean.

    Args:
        runs: runs.csv.
        teacher: teacher.json.
        differences: differences.csv.
    """
    figure, panel = _by_objective(runs, "top1", "top-1 accuracy on the validation images, %")
    low, high = panel.get_ylim()
    if teacher.get("top1") is not None:  # its line is in the panel
        margin = 0.05 * (max(high, teacher["top1"]) - min(low, teacher["top1"]))
        low, high = min(low, teacher["top1"] - margin), max(high, teacher["top1"] + margin)
    panel.set_ylim(low, min(high, 100.2))
    if teacher.get("top1") is not None:
        _reference(panel, teacher["top1"], "teacher")
    panel.set_title("Top-1 accuracy by objective and strategy")
    caption = (
        f"Top-1 accuracy of {_seeds(runs)}: points are seeds, bars their means. The means are "
        f"{_range(_means(runs, 'top1'))} %{_spread(runs, 'top1')}. Compare the distance of two bars with that of "
        f"one setting's points; the intervals of figure `differences` decide. {summary_sentence(differences)}"
    )
    if teacher.get("top1") is not None:
        caption += f" The dotted line is the teacher, {teacher['top1']:.2f} %."
    return figure, caption


def feature_error(runs: pd.DataFrame) -> tuple[Figure, str]:
    """Relative feature error ‖S − T‖² / ‖T‖² of every strategy and objective, as in `accuracy`.

    Args:
        runs: runs.csv.
    """
    known = runs.dropna(subset=["relative_feature_error"])
    figure, panel = _by_objective(known, "relative_feature_error", "relative feature error ‖S − T‖² / ‖T‖²")
    panel.set_title("Distance from the teacher's last-block features")
    values = known["relative_feature_error"]
    logarithmic = bool(len(values)) and values.min() > 0 and values.max() / values.min() > LOG_SPAN
    if logarithmic:
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)
    _reference(panel, 1, "a map\nof zeros")
    if known.empty:
        return figure, "No run has a relative feature error."
    means = _means(known, "relative_feature_error")
    caption = (
        f"Relative feature error on the validation images, {_seeds(known)}; points are seeds, bars their means"
        f"{', on a logarithmic axis' if logarithmic else ''}. A map of zeros has error 1 (dotted). "
        f"The means are {_range(means)}. "
        "A student narrower than its teacher is measured against the teacher's channels pooled to its width, "
        "which is a different target: compare its error only across objectives, not with other strategies'."
    )
    return figure, caption


def curves(epochs: pd.DataFrame) -> tuple[Figure, str]:
    """Validation top-1 by epoch: a column for each objective, a line for each strategy, seeds faint behind it.

    Args:
        epochs: curves.csv.
    """
    objectives = list(dict.fromkeys(epochs["objective"]))
    columns = min(3, len(objectives))
    lines = -(-len(objectives) // columns)
    figure = new_figure(max(5.5, 3.6 * columns), 3.1 * lines + 0.7)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    drawn = looks(epochs["strategy"])
    handles = {}
    for panel, objective in zip(panels.flat, objectives, strict=False):
        panel.set_title(f"objective {objective}")
        for strategy, style in drawn.items():
            rows = epochs[(epochs["strategy"] == strategy) & (epochs["objective"] == objective)]
            if rows.empty:
                continue
            for _, one in rows.sort_values("epoch").groupby("seed"):
                panel.plot(one["epoch"], one["top1"], color=style.color, lw=0.7, alpha=0.35)
            mean = rows.groupby("epoch")["top1"].mean()
            every = max(1, len(mean) // 6)
            (handles[strategy],) = panel.plot(
                mean.index,
                mean,
                color=style.color,
                ls=style.linestyle,
                marker=style.marker,
                markevery=every,
                label=strategy,
            )
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in panels.flat[len(objectives) :]:
        panel.remove()
    for position, panel in enumerate(panels.flat[: len(objectives)]):
        if position % columns == 0:
            panel.set_ylabel("validation top-1, %")
        if position + columns >= len(objectives):
            panel.set_xlabel("epoch (0 is the first)")
            panel.tick_params(labelbottom=True)
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        title="strategy: mean of seeds, each seed faint",
    )
    figure.suptitle("Validation accuracy while training")
    last = epochs["epoch"].max()
    final = epochs[epochs["epoch"] == last]
    middle = epochs[epochs["epoch"] == epochs["epoch"].min() + (last - epochs["epoch"].min()) // 2]
    caption = (
        f"Validation top-1 after each epoch, {_seeds(epochs)}: thick lines are means, faint ones single seeds. A line "
        "above another at the end counts only if it is above it beyond the faint ones' spread. "
        f"Half-way (epoch {middle['epoch'].iloc[0]}) top-1 is {_range(middle['top1'])} %, after the last "
        f"epoch ({last}) {_range(final['top1'])} %."
    )
    return figure, caption


def _by_objective(runs: pd.DataFrame, key: str, label: str) -> tuple[Figure, Axes]:
    """A figure wide enough for the strategies' names below the points, else with a legend beside them."""
    strategies, objectives = list(looks(runs["strategy"])), runs["objective"].nunique()
    named = 1.6 + objectives * len(strategies) * CHARACTER * max(map(len, strategies), default=0) / SHARE
    figure = new_figure(max(6.5, named if named <= WIDEST else 2.8 + 1.3 * objectives), 4.2)
    panel = figure.subplots()
    by_objective(panel, runs, key, label, names=named <= WIDEST)
    if named > WIDEST:
        _legend_beside(panel)
    return figure, panel


def by_objective(panel: Axes, runs: pd.DataFrame, key: str, label: str, *, names: bool = False) -> None:
    """Draw objectives along x, strategies side by side within each; points are seeds, bars means.

    Args:
        panel: where to draw.
        runs: rows with columns strategy, objective, seed and `key`.
        key: what is drawn.
        label: of the y axis.
        names: write the strategies' names below their points, and the objectives' below those.
    """
    objectives, drawn = list(dict.fromkeys(runs["objective"])), looks(runs["strategy"])
    slot = SHARE / max(1, len(drawn))
    places = {}
    for place, (strategy, style) in enumerate(drawn.items()):
        shown = False
        for position, objective in enumerate(objectives):
            values = runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)].sort_values("seed")[key]
            if values.empty:
                continue
            x = places[(strategy, position)] = position + (place - (len(drawn) - 1) / 2) * slot
            spread = np.linspace(-0.22, 0.22, len(values)) * slot if len(values) > 1 else np.zeros(1)
            panel.plot(
                x + spread,
                values,
                color=style.color,
                marker=style.marker,
                ls="none",
                alpha=0.75,
                mec="white",
                mew=0.5,
                ms=6.5,
                label=None if shown else strategy,
            )
            panel.hlines(values.mean(), x - slot * 0.4, x + slot * 0.4, color=style.color, lw=2.2)
            shown = True
    for border in range(1, len(objectives)):
        panel.axvline(border - 0.5, color="#E3E3E3", lw=0.8)
    panel.set_xlim(-0.5, max(1, len(objectives)) - 0.5)
    panel.grid(visible=False, axis="x")
    panel.set(xlabel="objective", ylabel=label)
    if not names:
        panel.set_xticks(range(len(objectives)), objectives)
        return
    places = dict(sorted(places.items(), key=lambda item: item[1]))
    panel.set_xticks(list(places.values()), [strategy for strategy, _ in places], fontsize="small")
    for tick, (strategy, _) in zip(panel.get_xticklabels(), places, strict=True):
        tick.set_color(drawn[strategy].color)
    panel.set_xlabel(None)
    for position, objective in enumerate(objectives):
        below = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "top"}
        panel.annotate(f"objective {objective}", (position, 0), xytext=(0, -24), annotation_clip=False, **below)


def _reference(panel: Axes, value: float, name: str) -> None:
    """A dotted line with its name beside the panel, whose limits are set, or in its legend where it has one."""
    panel.axhline(value, color=GREY, ls=":", lw=1.4, label=name)
    if panel.get_legend():
        _legend_beside(panel)
    else:
        label_ends(panel, [(panel.get_xlim()[1], value, name, GREY)])


def _legend_beside(panel: Axes) -> None:
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="strategy")


def _means(runs: pd.DataFrame, key: str) -> pd.Series:
    return runs.groupby(["strategy", "objective"], sort=False)[key].mean()


def _range(values: pd.Series) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"between {low} and {high}"


def _spread(runs: pd.DataFrame, key: str) -> str:
    spans = runs.groupby(["strategy", "objective"])[key].agg(lambda values: values.max() - values.min())
    return f"; seeds of one setting differ by up to {spans.max():.2f} points" if runs["seed"].nunique() > 1 else ""


def _seeds(rows: pd.DataFrame) -> str:
    strategies, objectives, seeds = (rows[key].nunique() for key in ("strategy", "objective", "seed"))
    return ", ".join(
        f"{count} {one if count == 1 else many}"
        for count, one, many in (
            (strategies, "strategy", "strategies"),
            (objectives, "objective", "objectives"),
            (seeds, "seed", "seeds"),
        )
    )
