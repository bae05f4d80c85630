"""How many dimensions an image needs from block to block, and from stage to stage.

Each function returns a figure and its caption; every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stages.core.analysis.dims import percentiles_of_counts
from stages.core.base.names import plural
from stages.core.report.style import (
    GREY,
    PER_IMAGE,
    backbone_name,
    edges,
    figure_of_panels,
    legend_below,
    levels,
    look,
    new_figure,
    whole_numbers,
)


def blocks(svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Sample-wise SVD dims of every block, one panel per threshold: mean, ± 1 standard deviation, quartiles.

    Args:
        svd: one backbone of svd.json.
    """
    rows, thresholds = svd["blocks"], svd["thresholds"]
    figure, panels = figure_of_panels(len(thresholds), 4.6, 2.7, 1, sharex=True)
    index = [row["block"] for row in rows]
    for panel, threshold in zip(panels, thresholds, strict=True):
        of = _column(rows, threshold)
        mean, std = of("dims_mean"), of("dims_std")
        low, high = np.maximum(mean - std, 0), mean + std
        panel.fill_between(
            index, low, high, color=PER_IMAGE.color, alpha=0.2, lw=0, label="mean ± 1 standard deviation"
        )
        panel.plot(index, of("dims_p25"), color=GREY, lw=1, ls="--", label="quartiles")
        panel.plot(index, of("dims_p75"), color=GREY, lw=1, ls="--")
        panel.plot(index, mean, color=PER_IMAGE.color, marker=PER_IMAGE.marker, label="mean over images")
        panel.set(title=f"{threshold} % of the energy", ylabel="dimensions")
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for panel in panels[-2:]:
        panel.set_xlabel("block (0 is the first)")
        panel.tick_params(labelbottom=True)
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, block by block")
    top = thresholds[-1]
    means = _column(rows, top)("dims_mean")
    tokens = dict.fromkeys(f"{row['tokens']}" for row in rows)  # a model of stages has fewer in each
    caption = (
        "Dimensions that one image's tokens need for a share of their energy, in each of "
        f"{plural(len(rows), 'block')} of `{svd['backbone']}`, "
        f"over {svd['images']:,} images of {', '.join(tokens)} tokens. The line is the "
        "mean over images, the band one standard deviation either side, the dashed lines the quartiles. Where the "
        "line rises, images need more dimensions the deeper the block; where it falls, the network compresses them. "
        f"For {top} % the mean goes from {means[0]:.1f} in block {index[0]} to {means[-1]:.1f} in block "
        f"{index[-1]}; it is largest in block {index[int(means.argmax())]} ({means.max():.1f}). At most "
        f"{min(rows[-1]['tokens'], rows[-1]['channels'])} dimensions are possible in the last block (the smaller of "
        "tokens and channels)."
    )
    return figure, caption


def layers_of_backbones(svd: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """Mean dims of every block, a line for each backbone that was analysed block by block.

    Args:
        svd: svd.json.
    """
    layerwise = {name: of for name, of in svd.items() if len(of["blocks"]) > 1}
    common = set.intersection(*(set(of["thresholds"]) for of in layerwise.values()))
    level = 95 if 95 in common else max(common)
    figure = new_figure(10.4, 4.2 + 0.1 * len(layerwise))
    left, right = figure.subplots(1, 2, sharex=True)
    last = {}
    for position, (backbone, of) in enumerate(layerwise.items()):
        means = _column(of["blocks"], level)("dims_mean")
        depth = (np.arange(len(means)) + 1) / len(means)
        drawn = look(position)
        style: dict[str, Any] = {"color": drawn.color, "ls": drawn.linestyle, "marker": drawn.marker, "ms": 3}
        left.plot(depth, means, label=backbone_name(of), lw=1.3, **style)
        widths = np.array([block["channels"] for block in of["blocks"]])
        right.plot(depth, means / widths, lw=1.3, **style)
        last[backbone] = means[-1] / widths[-1]
    left.set(ylabel="dimensions, mean over images", title="dimensions per image")
    right.set(ylabel="share of the block's channels", title="the same over the block's width")
    for panel in (left, right):
        panel.set(xlabel="depth (block / number of blocks)", xlim=(0, 1.02))
        panel.set_ylim(bottom=0)
    legend_below(figure, left, most=3)
    figure.suptitle(f"Dimensions for {level} % of one image's energy, block by block, every backbone")
    shares = "; ".join(f"`{backbone}` {share:.0%}" for backbone, share in last.items())
    caption = (
        f"Dimensions that hold {level} % of the energy of one image's tokens in each block, mean over images, of "
        f"{plural(len(layerwise), 'backbone')}. A model of stages has a point per stage, and its tokens become fewer "
        "and wider from stage to stage: there the number is bounded by the channels first and by the tokens last. "
        f"Right: the same over the channels of the block. In the last block: {shares}."
    )
    return figure, caption


def stages(counts: pd.DataFrame, svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Dims over images in each stage of a model of stages: a panel per stage, a histogram per threshold.

    Args:
        counts: stage_dims.csv, rows of any backbones.
        svd: the backbone's part of svd.json.
    """
    rows, thresholds, of_stages = counts[counts["backbone"] == svd["backbone"]], svd["thresholds"], svd["blocks"]
    figure, panels = figure_of_panels(len(of_stages), 5, 2.7, 0.9)
    summary = []
    for panel, stage in zip(panels, of_stages, strict=True):
        of = rows[rows["block"] == stage["block"]]
        p99s = []
        for threshold, drawn in zip(thresholds, levels(len(thresholds)), strict=True):
            at = of[of["threshold"] == threshold]
            p99 = float(percentiles_of_counts(np.bincount(at["dims"], at["images"]), [99])[0])
            style: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.45, "edgecolor": drawn.color, "lw": 1.2}
            label = f"{threshold} %: {p99:.4g}"
            panel.hist(at["dims"], edges(at["dims"]), weights=at["images"], color=drawn.color, label=label, **style)
            panel.axvline(p99, ymax=0.65, color=drawn.color, ls=drawn.linestyle, lw=1.2)  # the legend is above
            p99s.append(f"{p99:.4g}")
        panel.set(title=f"stage {stage['block']}: {stage['tokens']:,} tokens, {stage['channels']} channels")
        panel.set(xlabel="dimensions", ylabel="images")
        panel.set_ylim(top=1.7 * panel.get_ylim()[1])  # room for the legend
        whole_numbers(panel)
        key = panel.legend(fontsize="small", loc="upper left", ncols=2, title="share of the energy: 99th percentile")
        key.get_title().set_fontsize("small")
        summary.append(f"stage {stage['block']}: {', '.join(p99s)} of {min(stage['tokens'], stage['channels'])}")
    figure.suptitle(f"{backbone_name(svd)}: dimensions per image, stage by stage")
    caption = (
        "How many dimensions hold a share of the energy of one image's tokens in each of "
        f"{plural(len(of_stages), 'stage')} of `{svd['backbone']}`, "
        f"over {svd['images']:,} images; the lines are the 99th percentiles. For "
        f"{', '.join(map(str, thresholds))} %: {'; '.join(summary)} possible dimensions."
    )
    return figure, caption


def _column(rows: Any, threshold: int) -> Any:
    """A function from a key such as dims_mean to its values at `threshold`, one a block."""
    return lambda key: np.array([row[key][str(threshold)] for row in rows], dtype=float)
