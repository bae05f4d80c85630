"""Figures that show this project's runs beside published ones; each function returns a figure and its caption."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.core.base.names import setting_name
from stages.core.evidence.training_logs import PublishedCurve
from stages.core.report.style import LINES, looks, new_figure


def curves(epochs: pd.DataFrame, published: Sequence[PublishedCurve]) -> tuple[Figure, str]:
    """Validation top-1 by epochs trained: a line for each run, and the values of the published log.

    Args:
        epochs: curves.csv.
        published: the logs to compare with, at least one; each has a run in `epochs`.
    """
    figure = new_figure(7.2, 4.2)
    panel = figure.subplots()
    sentences = []
    drawn, objectives = (
        looks(log.strategy for log in published),
        list(dict.fromkeys(log.objective for log in published)),
    )
    for log in published:
        style, name = drawn[log.strategy], setting_name(log.strategy, log.objective)
        line = LINES[objectives.index(log.objective) % len(LINES)]
        rows = epochs[(epochs["strategy"] == log.strategy) & (epochs["objective"] == log.objective)]
        for index, (_, one) in enumerate(rows.sort_values("epoch").groupby("seed")):
            panel.plot(
                one["epoch"] + 1,  # curves.csv counts finished epochs from 0
                one["top1"],
                color=style.color,
                ls=line,
                lw=1.2,
                label=None if index else f"{name}, here",
            )
        panel.plot(
            list(log.top1),
            list(log.top1.values()),
            color=style.color,
            marker=style.marker,
            ls="none",
            ms=7,
            mec="black",
            label=f"{name}, published",
        )
        sentences.append(_sentence(name, rows, log))
    panel.set(xlabel="epochs trained", ylabel="validation top-1, %")
    panel.set_title("Validation accuracy beside the published training logs")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(loc="lower right")
    return figure, (
        "Validation top-1 by epochs trained: lines are this project's runs, one for each seed, symbols the published "
        "logs of the same setting (reports/reference/training_logs.yaml): a reproduction runs through its symbols. "
        f"{' '.join(sentences)}"
    )


def _sentence(name: str, rows: pd.DataFrame, log: PublishedCurve) -> str:
    """How far the mean of the runs lies from the published values."""
    means = rows.groupby(rows["epoch"] + 1)["top1"].mean()
    common = {count: value for count, value in log.top1.items() if count in means.index}
    if not common:
        return f"{name}: no published epoch was reached."
    shifts = {count: means[count] - value for count, value in common.items()}
    last, largest = max(shifts), max(shifts, key=lambda count: abs(shifts[count]))
    return (
        f"{name}: {shifts[last]:+.2f} points after {last} epochs, the largest difference of {len(shifts)} compared is "
        f"{shifts[largest]:+.2f} after {largest}."
    )
