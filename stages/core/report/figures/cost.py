"""What a student costs at inference against its accuracy; every number in a caption is read from the data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, label_ends, looks, new_figure

NEAR = 0.12  # of a panel's width
NAMED = 3  # objectives, up to which each marker has its objective's name


def cost(runs: pd.DataFrame, teacher: Mapping[str, Any]) -> tuple[Figure, str]:
    """Parameters and FLOPs against top-1: a marker for each strategy and objective, the mean of its seeds.

    Args:
        runs: runs.csv.
        teacher: teacher.json.
    """
    means = runs.groupby(["strategy", "objective"], sort=False)[["parameters", "flops", "top1"]].mean().reset_index()
    several = runs["seed"].nunique() > 1
    named = means["objective"].nunique() <= NAMED
    figure = new_figure(9.6, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (key, noun) in zip(panels, (("parameters", "parameters"), ("flops", "FLOPs per image")), strict=True):
        factor, prefix = _prefix(means[key].max())
        panel.margins(0.15)
        panel.plot(means[key] / factor, means["top1"], ls="none")  # the limits, before labels are placed by them
        for strategy, style in looks(means["strategy"]).items():
            rows = means[means["strategy"] == strategy]
            width = rows[key] / factor
            panel.plot(
                width,
                rows["top1"],
                color=style.color,
                marker=style.marker,
                ls="-",
                lw=0.8,
                alpha=0.85,
                label=strategy,
            )
            if several:
                each = runs[runs["strategy"] == strategy]
                panel.plot(each[key] / factor, each["top1"], ".", color=style.color, alpha=0.5, ms=5)
            if named:
                ends = zip(width, rows["top1"], rows["objective"], strict=True)
                ahead = (means[key] - rows[key].iloc[0]) / np.ptp(panel.get_xlim()) / factor
                near = bool(((ahead > 0) & (ahead < NEAR)).any())  # another strategy's markers are where names would be
                label_ends(panel, [(x, y, objective, style.color) for x, y, objective in ends], left=near)
        if teacher.get("top1") is not None:
            panel.axhline(teacher["top1"], color=GREY, ls=":", label="teacher's top-1")
        panel.set_xlabel(f"{noun}{f', {prefix}' if prefix else ''}")
        panel.set_title(f"Top-1 against {noun}")
    panels[0].set_ylabel("top-1 on the validation images, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    sizes = "; ".join(
        f"{strategy} {rows['parameters'].iloc[0]:,.0f} parameters, {_engineering(rows['flops'].iloc[0])}FLOPs"
        for strategy, rows in ((name, means[means["strategy"] == name]) for name in looks(means["strategy"]))
    )
    caption = (
        "What a student costs at inference against its accuracy: what is further left for the same height is cheaper. "
        f"Each marker is one objective, averaged over seeds{' (dots)' * several}, and vertical lines join the "
        "objectives of one strategy: two markers at different heights need not "
        f"differ by more than chance, see figure `differences`. {sizes}."
    )
    if teacher.get("parameters"):
        flops = f", {_engineering(teacher['flops'])}FLOPs" if teacher.get("flops") else ""
        caption += f" The teacher ({teacher['parameters']:,} parameters{flops}) is shown only by its accuracy, dotted."
    return figure, caption


def _prefix(value: float) -> tuple[float, str]:
    for factor, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if value >= factor:
            return factor, name
    return 1.0, ""


def _engineering(value: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3f} {letter}"
    return f"{value:g} "
