"""How many dimensions an image's last block needs, image by image and backbone by backbone.

Each function returns a figure and its caption; every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.base.names import plural
from stages.core.report.style import (
    GREY,
    PER_IMAGE,
    SHARED,
    backbone_name,
    edges,
    figure_of_panels,
    look,
    new_figure,
    whole_numbers,
)

BASES = {"per_image": "per-image basis (SVD)", "shared": "shared basis (PCA)"}


def histogram(dims: pd.DataFrame, svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Last-block dims over images, one panel per threshold, with median and 99th percentile marked.

    Args:
        dims: dims.csv, rows of any backbones.
        svd: the backbone's part of svd.json.
    """
    thresholds = svd["thresholds"]
    figure, panels = figure_of_panels(len(thresholds), 4.6, 2.8, 0.5)
    rows = dims[dims["backbone"] == svd["backbone"]]
    by_threshold = []
    for panel, threshold in zip(panels, thresholds, strict=True):
        values = rows.loc[rows["threshold"] == threshold, "per_image"].to_numpy()
        p99, median = svd["dims_p99"][str(threshold)], svd["dims_median"][str(threshold)]
        panel.hist(values, edges(values), color=PER_IMAGE.color, edgecolor="white", lw=0.5)
        panel.set(title=f"{threshold} % of the energy", xlabel="dimensions", ylabel="images")
        panel.set_xlim(min(panel.get_xlim()[0], values.min() - 2), max(panel.get_xlim()[1], values.max() + 2))
        panel.set_ylim(top=1.4 * panel.get_ylim()[1])  # room for the labels
        whole_numbers(panel)
        _mark(panel, {"median": (median, GREY, ":"), "99th percentile": (p99, "black", "--")})
        by_threshold.append(
            f"{threshold} %: between {values.min()} and {values.max()}, median {median:g}, 99th percentile {p99:g} "
            f"({p99 / svd['channels']:.0%} of the {svd['channels']} channels)"
        )
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, last block")
    caption = (
        f"How many dimensions hold a share of the energy of one image's last-block tokens, over "
        f"{svd['images']:,} images of `{svd['backbone']}`. A low-rank image stands far left of the "
        f"{svd['channels']} channels; a narrow histogram means that all images need about as many dimensions. "
        f"{'; '.join(by_threshold)}. The 99th percentile is what the paper reports{_tokens_bound(svd)}."
    )
    return figure, caption


def overlaid(dims: pd.DataFrame, svd: Mapping[str, Any], pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """Histograms over images of the dims in the per-image and in the shared basis, over one another.

    Args:
        dims: dims.csv, rows of any backbones.
        svd, pca: the backbone's parts of svd.json and pca.json.
    """
    thresholds = [threshold for threshold in svd["thresholds"] if threshold in pca["thresholds"]]
    figure, panels = figure_of_panels(len(thresholds), 4.8, 2.7, 0.9)
    rows = dims[dims["backbone"] == svd["backbone"]]
    apart = []
    for panel, threshold in zip(panels, thresholds, strict=True):
        of = rows[rows["threshold"] == threshold]
        shared_edges = edges(of[[*BASES]].to_numpy())
        marks = {}
        for kind, name, drawn, hatch, p99 in (
            ("per_image", "per-image", PER_IMAGE, None, svd["dims_p99"][str(threshold)]),
            ("shared", "shared", SHARED, "//", pca["dims_p99"][str(threshold)]),
        ):
            style: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.45, "edgecolor": drawn.color, "lw": 1.2}
            panel.hist(of[kind], shared_edges, color=drawn.color, hatch=hatch, label=BASES[kind], **style)
            marks[f"{name}, 99th percentile"] = p99, drawn.color, drawn.linestyle
        panel.set(title=f"{threshold} % of the energy", xlabel="dimensions", ylabel="images")
        panel.set_ylim(top=1.4 * panel.get_ylim()[1])  # room for the labels
        whole_numbers(panel)
        _mark(panel, marks)
        alike = int((of["shared"] <= of["per_image"].max()).sum())
        apart.append(f"{threshold} %: {alike:,} of {len(of):,}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, per-image and shared basis")
    caption = (
        f"How many dimensions hold a share of the energy of one image's last-block tokens, over {svd['images']:,} "
        f"images of `{svd['backbone']}`: in the basis that suits the image best, and in one basis for all images. The "
        "lines are the 99th percentiles, which the paper reports. The further apart the two histograms are, the more "
        "the images' subspaces differ. Images whose number for the shared basis lies within the range of the other "
        f"histogram: {'; '.join(apart)}."
    )
    return figure, caption


def ranks(counts: pd.DataFrame, svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Numerical ranks of the images' token matrices, with their 99th percentile.

    Args:
        counts: ranks.csv, rows of any backbones.
        svd: the backbone's part of svd.json.
    """
    rows = counts[counts["backbone"] == svd["backbone"]]
    figure = new_figure(7.6, 3.6)
    panel = figure.subplots()
    most, rank = min(svd["tokens"], svd["channels"]), svd["rank"]
    panel.hist(
        rows["rank"], edges(rows["rank"]), weights=rows["images"], color=PER_IMAGE.color, edgecolor="white", lw=0.5
    )
    panel.set(title=f"{backbone_name(svd)}: rank per image, last block", xlabel="numerical rank", ylabel="images")
    panel.set_xlim(min(rows["rank"].min(), most) - 2, most + 2)
    panel.set_ylim(top=1.4 * panel.get_ylim()[1])  # room for the labels
    whole_numbers(panel)
    _mark(panel, {"99th percentile": (rank["p99"], "black", "--"), "largest possible": (most, GREY, ":")})
    full = int(rows.loc[rows["rank"] == most, "images"].sum())
    caption = (
        f"Numerical rank of one image's last-block tokens, over {svd['images']:,} images of `{svd['backbone']}`: the "
        "singular values above what the rounding of float32 leaves (the rule of numpy's matrix_rank; the release "
        f"counts all above 1e-10). 99th percentile {rank['p99']:g}, mean {rank['mean']:.4g}; {full:,} images have the "
        f"largest rank possible, {most} (the smaller of {svd['tokens']} tokens and {svd['channels']} channels). Low "
        "rank is here a statement about energy: the small singular values are there, but hold next to none of it."
    )
    return figure, caption


def backbones(rows: pd.DataFrame) -> tuple[Figure, str]:
    """Every backbone's dims and SEP bandwidths as shares of its width, measured (filled) and published (hollow).

    Args:
        rows: backbones.csv with the published figures (`stages.core.report.tables.representation.with_published`).
    """
    both = [level for level in _levels(rows, "per_image") if level in _levels(rows, "shared")]
    level = 95 if 95 in both else max(both)
    low, high = min(_levels(rows, "sep")), max(_levels(rows, "sep"))
    measures = {
        "dimensions, 99th percentile over images": {
            f"per_image_{level}": f"per-image basis (SVD): {level} %",
            f"shared_{level}": f"shared basis (PCA): {level} %",
        },
        "frequencies, mean SEP": {f"sep_{low}": f"SEP: {low} %", f"sep_{high}": f"SEP: {high} %"},
    }
    places = np.arange(len(rows))
    figure = new_figure(9.6, 2.1 + 0.33 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    position = 0
    for panel, (what, columns) in zip(panels, measures.items(), strict=True):
        for column, label in columns.items():
            drawn, position = look(position), position + 1
            measured, published = (rows[name].astype(float) / rows["D"] for name in (column, f"published_{column}"))
            hollow = {"facecolors": "none", "edgecolors": drawn.color, "marker": drawn.marker, "lw": 1.2}
            panel.scatter(measured, places, s=26, color=drawn.color, marker=drawn.marker, label=label)
            panel.scatter(published, places, s=85, **hollow)
        panel.set(title=what, xlabel="share of the channels", xlim=(0, 1.02))
    for noise in {low, high}:
        panels[1].axvline(noise / 100, color=GREY, ls=":", lw=1)
    panels[0].set_yticks(places, [backbone_name(row) for row in rows.to_dict("records")])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle("Last blocks of every backbone: measured (filled) and published (hollow)")
    per_image, shared = (rows[f"{kind}_{level}"] / rows["D"] for kind in BASES)
    compared = int(rows[f"published_per_image_{level}"].notna().sum())
    caption = (
        f"Last blocks of {plural(len(rows), 'backbone')}, each on {int(rows['images'].iloc[0]):,} images. Left: "
        f"dimensions that hold {level} % of the energy for 99 % of the images, over the width D: {per_image.min():.0%} "
        f"to {per_image.max():.0%} in the per-image basis, {shared.min():.0%} to {shared.max():.0%} in the shared one. "
        f"Right: frequencies at which the mean SEP curve (full spectrum) reaches {low} and {high} %; dotted: white "
        f"noise. Filled: measured here. Hollow: published, for {compared} of them, measured on 1,000 images of "
        "ImageNet-1K."
    )
    if (rows["weights"] == "random").any():
        caption += " **Weights marked random belong to a dry run and say nothing about the trained models.**"
    return figure, caption


def _mark(panel: Axes, marks: Mapping[str, tuple[float, str, Any]]) -> None:
    """Vertical lines with their names and values beside them, one below the other; equal values share a line.

    Args:
        panel: whose limits are set already.
        marks: value, colour and line style by name.
    """
    left, right = panel.get_xlim()
    by_value: dict[float, list[str]] = {}
    for name, (value, color, line) in marks.items():
        by_value.setdefault(value, []).append(name)
        panel.axvline(value, ymax=0.95, color=color, ls=line, lw=1.6)
    for row, (value, names) in enumerate(by_value.items()):
        beside = value < (left + right) / 2  # the label stands on the side with more room
        panel.annotate(
            f"{', '.join(names)}: {value:g}",
            (value, 0.95 - 0.12 * row),
            xycoords=("data", "axes fraction"),
            xytext=(4 if beside else -4, 0),
            textcoords="offset points",
            ha="left" if beside else "right",
            va="center",
            color=marks[names[-1]][1],
            fontsize="small",
            bbox={"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1.5},  # over another mark's line
        )


def _levels(rows: pd.DataFrame, kind: str) -> list[int]:
    """The thresholds of columns like per_image_95."""
    return [int(name.removeprefix(f"{kind}_")) for name in rows.columns if name.startswith(f"{kind}_")]


def _tokens_bound(svd: Mapping[str, Any]) -> str:
    if svd["tokens"] >= svd["channels"]:
        return ""
    return f", and cannot exceed {svd['tokens']}, the number of tokens"
