"""How much energy the first dimensions hold, in each image's own basis and in a shared one.

Each function returns a figure and its caption; every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.analysis.dims import CAPTURED
from stages.core.report.style import GREY, PER_IMAGE, SHARED, backbone_name, label_ends, levels, new_figure

LEAST = 1e-9  # share of the energy that is drawn; float32 features do not resolve much less


def svd_vs_pca(energy: pd.DataFrame, svd: Mapping[str, Any], pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """Mean cumulative energy share against the number of dimensions: a basis per image, and one for all images.

    Args:
        energy: energy.csv, rows of any backbones.
        svd, pca: the backbone's parts of svd.json and pca.json.
    """
    rows = energy[energy["backbone"] == svd["backbone"]].sort_values("dims")
    figure = new_figure(7.6, 4.2)
    panel = figure.subplots()
    panel.plot(
        rows["dims"], rows["per_image"], color=PER_IMAGE.color, ls=PER_IMAGE.linestyle, label="per-image basis (SVD)"
    )
    panel.plot(rows["dims"], rows["shared"], color=SHARED.color, ls=SHARED.linestyle, label="shared basis (PCA)")
    panel.set(xlabel="dimensions", ylabel="mean share of the energy", ylim=(0, 1.03))
    panel.set_xlim(0, rows["dims"].max())
    _mark_shares(panel, svd["thresholds"])
    panel.set_title(f"{backbone_name(svd)}: energy in the first dimensions, last block")
    panel.legend(loc="lower right")
    both = [t for t in svd["thresholds"] if t in pca["thresholds"]]
    needed = "; ".join(
        f"{t} %: {svd['dims_p99'][str(t)]:.4g} against {pca['dims_p99'][str(t)]:.4g} of {svd['channels']}" for t in both
    )
    caption = (
        f"Mean share of an image's energy in its first dimensions, last block of `{svd['backbone']}`, over "
        f"{svd['images']:,} images. The wider the gap between the lines, the more the images' subspaces differ "
        "from each other. Dimensions for 99 % of images (99th percentile), per-image basis against shared basis: "
        f"{needed}. The per-image basis ends at {min(svd['tokens'], svd['channels'])} dimensions, the smaller of "
        f"{svd['tokens']} tokens and {svd['channels']} channels: part of the gap comes from that bound alone where "
        "there are fewer tokens than channels."
    )
    return figure, caption


def spectrum(energy: pd.DataFrame, pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """The PCA spectrum of all images, each direction's share and their sum, with the chosen dims marked.

    Args:
        energy: energy.csv, rows of any backbones.
        pca: the backbone's part of pca.json.
    """
    rows = energy[energy["backbone"] == pca["backbone"]].sort_values("dims")
    figure = new_figure(9.6, 4.2)
    left, right = figure.subplots(1, 2, sharex=True)
    shown = rows[rows["eigenvalue"] > LEAST]
    left.plot(shown["dims"], shown["eigenvalue"], color="black", lw=1.4)
    right.plot(rows["dims"], rows["eigenvalue"].cumsum(), color="black", lw=1.4)
    needed = []
    for threshold, drawn in zip(pca["thresholds"], levels(len(pca["thresholds"])), strict=True):
        chosen = pca["dims_global"][str(threshold)]
        for panel in (left, right):
            panel.axvline(chosen, color=drawn.color, ls=drawn.linestyle, lw=1.2, label=f"{threshold} %: d = {chosen}")
        right.plot(chosen, threshold / 100, marker=drawn.marker, color=drawn.color)
        needed.append(f"{threshold} % in {chosen} ({chosen / pca['channels']:.0%})")
    left.set_yscale("log")
    left.set(ylabel="share of the energy", title="each direction")
    right.set(ylabel="share of the energy", title="the first d directions together", ylim=(0, 1.03))
    for panel in (left, right):
        panel.set(xlabel="direction d, by falling eigenvalue", xlim=(0, rows["dims"].max()))
    _mark_shares(right, pca["thresholds"])
    left.legend(fontsize="small", loc="upper right")
    figure.suptitle(f"{backbone_name(pca)}: PCA spectrum of all images, last block")
    hidden = len(rows) - len(shown)
    caption = (
        f"Eigenvalues of the shared basis as shares of the energy of all tokens of {pca['images']:,} images of "
        f"`{pca['backbone']}` (not centred). The marked dims hold a share of the energy of all images together: "
        f"{', '.join(needed)} of {pca['channels']} dimensions. A spectrum that falls late, or not at all, means that "
        "no narrow basis fits all images. The first direction alone holds "
        f"{rows['eigenvalue'].iloc[0]:.1%}: it is near the mean token where the mean is large."
    )
    return figure, caption + (f" {hidden} eigenvalues below {LEAST:g} are not drawn on the left." if hidden else "")


def captured(energy: pd.DataFrame, svd: Mapping[str, Any]) -> tuple[Figure, str]:
    """Percentiles over images of the energy that the first dimensions capture, in both bases.

    Args:
        energy: energy.csv, rows of any backbones.
        svd: the backbone's part of svd.json.
    """
    rows = energy[energy["backbone"] == svd["backbone"]].sort_values("dims")
    figure = new_figure(9.6, 4.2)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    half = max(1, len(rows) // 10)
    found = []
    for panel, kind, name, drawn in zip(
        panels, ("per_image", "shared"), ("per-image basis", "shared basis"), (PER_IMAGE, SHARED), strict=True
    ):
        for line, percent in zip(("-", "--", ":"), CAPTURED, strict=True):
            label = "median image" if percent == 50 else f"{100 - percent} % of the images hold more"
            panel.plot(rows["dims"], rows[f"{kind}_p{percent}"], color=drawn.color, ls=line, label=label)
        panel.set(title=f"{name} ({'SVD' if kind == 'per_image' else 'PCA'})", xlabel="dimensions", ylim=(0, 1.03))
        panel.set_xlim(0, rows["dims"].max())
        panel.legend(loc="lower right", fontsize="small")
        at = rows[rows["dims"] == half].iloc[0]
        found.append(f"{name} " + ", ".join(f"{at[f'{kind}_p{percent}']:.1%}" for percent in CAPTURED))
    panels[0].set_ylabel("share of the image's energy")
    for panel in panels:
        _mark_shares(panel, svd["thresholds"])
    figure.suptitle(f"{backbone_name(svd)}: energy captured, over images")
    caption = (
        f"Share of an image's energy in its first dimensions, last block of `{svd['backbone']}`: the percentiles "
        f"{', '.join(map(str, CAPTURED))} over {svd['images']:,} images, in the per-image basis and in the shared "
        f"one. Where the lines of a panel lie close together, all images need about as many dimensions. With {half} "
        f"of {svd['channels']} dimensions: {'; '.join(found)}."
    )
    return figure, caption


def _mark_shares(panel: Axes, thresholds: Sequence[int]) -> None:
    """A dotted line at each share of the energy, with its percents beside the panel, whose limits are set."""
    for threshold in thresholds:
        panel.axhline(threshold / 100, color=GREY, lw=0.8, ls=":")
    end = panel.get_xlim()[1]
    label_ends(panel, [(end, threshold / 100, f"{threshold} %", GREY) for threshold in thresholds])
