"""Figures of the three analyses of a backbone's features; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, backbone_name, look, new_figure


def blocks(svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Sample-wise SVD dims of every block, one panel per threshold: mean, ± 1 standard deviation, quartiles.

    Args:
        svd: one backbone of svd.json.
    """
    rows, thresholds = svd["blocks"], svd["thresholds"]
    columns = min(2, len(thresholds))
    lines = -(-len(thresholds) // columns)
    figure = new_figure(4.6 * columns, 2.7 * lines + 0.9)
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    index = [row["block"] for row in rows]
    for position, (panel, threshold) in enumerate(zip(panels.flat, thresholds, strict=False)):
        drawn, of = look(position), _column(rows, threshold)
        mean, std = of("dims_mean"), of("dims_std")
        low, high = np.maximum(mean - std, 0), mean + std
        panel.fill_between(index, low, high, color=drawn.color, alpha=0.2, lw=0, label="mean ± 1 std")
        panel.plot(index, of("dims_p25"), color=GREY, lw=1, ls="--", label="quartiles")
        panel.plot(index, of("dims_p75"), color=GREY, lw=1, ls="--")
        panel.plot(index, mean, color=drawn.color, marker="o", label="mean over images")
        panel.set(title=f"{threshold} % of the energy", ylabel="dimensions")
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend(fontsize="x-small", loc="best")
    for panel in panels.flat[len(thresholds) :]:
        panel.remove()
    for panel in panels.flat[: len(thresholds)][-columns:]:
        panel.set_xlabel("block (0 is the first)")
        panel.tick_params(labelbottom=True)
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, block by block")
    top = thresholds[-1]
    means = _column(rows, top)("dims_mean")
    tokens = dict.fromkeys(f"{row['tokens']}" for row in rows)  # a model of stages has fewer in each
    caption = (
        f"Dimensions that one image's tokens need for a share of their energy, in each of {_count(rows, 'block')} "
        f"of `{svd['backbone']}`, over {svd['images']:,} images of {', '.join(tokens)} tokens. The line is the "
        "mean over images, the band one standard deviation either side, the dashed lines the quartiles. "
        f"For {top} % the mean goes from {means[0]:.1f} in block {index[0]} to {means[-1]:.1f} in block "
        f"{index[-1]}; it is largest in block {index[int(means.argmax())]} ({means.max():.1f}). At most "
        f"{min(rows[-1]['tokens'], rows[-1]['channels'])} dimensions are possible in the last block (the smaller of "
        "tokens and channels)."
    )
    return figure, caption


def histogram(dims: pd.DataFrame, svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Last-block dims over images, one panel per threshold, with median and 99th percentile marked.

    Args:
        dims: dims.csv, rows of any backbones.
        svd: the backbone's part of svd.json.
    """
    thresholds = svd["thresholds"]
    columns = min(2, len(thresholds))
    lines = -(-len(thresholds) // columns)
    figure = new_figure(4.6 * columns, 2.6 * lines + 0.5)
    panels = figure.subplots(lines, columns, squeeze=False)
    rows = dims[dims["backbone"] == svd["backbone"]]
    told = []
    for position, (panel, threshold) in enumerate(zip(panels.flat, thresholds, strict=False)):
        values = rows.loc[rows["threshold"] == threshold, "svd"].to_numpy()
        p99, median = svd["dims_p99"][str(threshold)], svd["dims_median"][str(threshold)]
        step = max(1, -(-(int(values.max()) - int(values.min()) + 1) // 40))
        edges = np.arange(values.min() - 0.5, values.max() + step + 0.5, step)
        panel.hist(values, edges, color=look(position).color, edgecolor="white", lw=0.5)
        panel.axvline(median, color=GREY, ls=":", lw=1.8, label=f"median: {median:g}")
        panel.axvline(p99, color="black", ls="--", lw=1.4, label=f"99th percentile: {p99:g}")
        panel.set(title=f"{threshold} % of the energy", xlabel="dimensions", ylabel="images")
        panel.set_xlim(min(panel.get_xlim()[0], values.min() - 2), max(panel.get_xlim()[1], values.max() + 2))
        panel.set_ylim(top=1.35 * panel.get_ylim()[1])  # room for the legend
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.legend(fontsize="x-small", loc="upper left")
        told.append(
            f"{threshold} %: between {values.min()} and {values.max()}, median {median:g}, 99th percentile {p99:g} "
            f"({p99 / svd['channels']:.0%} of the {svd['channels']} channels)"
        )
    for panel in panels.flat[len(thresholds) :]:
        panel.remove()
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, last block")
    caption = (
        f"How many dimensions hold a share of the energy of one image's last-block tokens, over "
        f"{svd['images']:,} images of `{svd['backbone']}`. {'; '.join(told)}. The 99th percentile is the figure "
        f"the paper reports{_tokens_bound(svd)}."
    )
    return figure, caption


def svd_vs_pca(energy: pd.DataFrame, svd: Mapping[str, Any], pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """Mean cumulative energy share against the number of dimensions: a basis per image, and one for all images.

    Args:
        energy: energy.csv, rows of any backbones.
        svd, pca: the backbone's parts of svd.json and pca.json.
    """
    rows = energy[energy["backbone"] == svd["backbone"]].sort_values("dims")
    own, shared = look(0), look(3)
    figure = new_figure(7.6, 4)
    panel = figure.subplots()
    for threshold in svd["thresholds"]:
        panel.axhline(threshold / 100, color=GREY, lw=0.8, ls=":")
        panel.annotate(
            f"{threshold} %",
            (1.01, threshold / 100),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="x-small",
            color=GREY,
        )
    panel.plot(rows["dims"], rows["svd"], color=own.color, ls="-", label="SVD: a basis of its own for each image")
    panel.plot(rows["dims"], rows["pca"], color=shared.color, ls="--", label="PCA: one basis for all images")
    panel.set(xlabel="dimensions", ylabel="mean share of the energy", ylim=(0, 1.03))
    panel.set_xlim(0, rows["dims"].max())
    panel.set_title(f"{backbone_name(svd)}: energy in the first dimensions, last block")
    panel.legend(loc="lower right")
    both = [t for t in svd["thresholds"] if t in pca["thresholds"]]
    needed = "; ".join(
        f"{t} %: {svd['dims_p99'][str(t)]:.4g} against {pca['dims_p99'][str(t)]:.4g} of {svd['channels']}" for t in both
    )
    caption = (
        f"Mean share of an image's energy in its first dimensions, last block of `{svd['backbone']}`, over "
        f"{svd['images']:,} images. The wider the gap between the lines, the more the images' subspaces differ "
        "from each other. Dimensions for 99 % of images (99th percentile), own basis against shared basis: "
        f"{needed}. An image's own basis ends at {min(svd['tokens'], svd['channels'])} dimensions, the smaller of "
        f"{svd['tokens']} tokens and {svd['channels']} channels: part of the gap comes from that bound alone where "
        "there are fewer tokens than channels."
    )
    return figure, caption


def backbones(rows: pd.DataFrame) -> tuple[Figure, str]:
    """Every backbone's dims and SEP bandwidths as shares of its width, measured (filled) and published (hollow).

    Args:
        rows: backbones.csv with the published figures (`stages.core.report.tables.representation.with_published`).
    """
    both = [level for level in _levels(rows, "svd") if level in _levels(rows, "dataset")]
    level = 95 if 95 in both else max(both)
    low, high = min(_levels(rows, "sep")), max(_levels(rows, "sep"))
    measures = {
        "dimensions, 99th percentile over images": {
            f"svd_{level}": f"SVD, own basis: {level} %",
            f"dataset_{level}": f"PCA, shared basis: {level} %",
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
    own, shared = (rows[f"{kind}_{level}"] / rows["D"] for kind in ("svd", "dataset"))
    compared = int(rows[f"published_svd_{level}"].notna().sum())
    caption = (
        f"Last blocks of {_count(rows, 'backbone')}, each on {int(rows['images'].iloc[0]):,} images. Left: "
        f"dimensions that hold {level} % of the energy for 99 % of the images, over the width D: {own.min():.0%} to "
        f"{own.max():.0%} in an image's own basis, {shared.min():.0%} to {shared.max():.0%} in the shared one. Right: "
        f"frequencies at which the mean SEP curve (full spectrum) reaches {low} and {high} %; dotted: white noise. "
        f"Filled: measured here. Hollow: published, for {compared} of them, measured on 1,000 images of ImageNet-1K."
    )
    if (rows["weights"] == "random").any():
        caption += " **Weights marked random belong to a dry run and say nothing about the trained models.**"
    return figure, caption


def _levels(rows: pd.DataFrame, kind: str) -> list[int]:
    """The thresholds of columns like svd_95."""
    return [int(name.removeprefix(f"{kind}_")) for name in rows.columns if name.startswith(f"{kind}_")]


def _column(rows: Any, threshold: int) -> Any:
    """A function from a key such as dims_mean to its values at `threshold`, one a block."""
    return lambda key: np.array([row[key][str(threshold)] for row in rows], dtype=float)


def _tokens_bound(svd: Mapping[str, Any]) -> str:
    if svd["tokens"] >= svd["channels"]:
        return ""
    return f", and cannot exceed {svd['tokens']}, the number of tokens"


def _count(items: Any, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
