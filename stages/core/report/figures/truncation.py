"""Dims that accuracy needs, beside dims that energy needs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, PER_IMAGE, SHARED, backbone_name, new_figure

LEVEL = "95"  # percent of the energy whose dims are drawn
BASES = {"per_image": "per-image basis", "shared": "shared basis"}


def accuracy_by_dims(curves: pd.DataFrame, of: Mapping[str, Any]) -> tuple[Figure, str]:
    """A model's top-1 by the dimensions that its tokens keep.

    Args:
        curves: truncation.csv.
        of: the model's part of truncation.json; it was measured.
    """
    curve = curves[curves["backbone"] == of["backbone"]]
    figure = new_figure(7.6, 4.2)
    panel = figure.subplots()
    panel.axhline(of["top1"], color=GREY, ls=":")
    panel.annotate(
        f"all {of['channels']}: {of['top1']:.1f} %",
        (curve["dims"].iloc[0], of["top1"]),
        xytext=(0, 4),
        textcoords="offset points",
        color=GREY,
        fontsize="small",
    )
    for (basis, name), drawn in zip(BASES.items(), (PER_IMAGE, SHARED), strict=True):
        panel.plot(curve["dims"], curve[basis], color=drawn.color, marker=drawn.marker, ls=drawn.linestyle, label=name)
        dims = of["energy"][basis].get(LEVEL)
        if dims is not None:
            label = f"{LEVEL} % of the energy, {name}: {dims:.3g}"
            panel.axvline(dims, color=drawn.color, lw=0.9, ls=(0, (2, 2)), label=label)
    panel.set_xscale("log")
    ticks = curve["dims"].tolist()[::-2]  # every second, all of them among these
    panel.set_xticks(ticks, [str(d) for d in ticks], minor=False)
    panel.minorticks_off()
    panel.set_ylim(0, 1.09 * max(of["top1"], *(curve[basis].max() for basis in BASES)))  # the label is within
    panel.set(xlabel="dimensions that every token keeps", ylabel="top-1 on the validation images, %")
    panel.set_title(f"{backbone_name(of)}: top-1 by kept dims")
    panel.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")  # a dotted line may pass behind
    kept = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{d if d is not None else 'more than ' + str(of['channels'])} for {share} %"
            for share, d in of["bases"][basis]["dims"].items()
        )
        + (f", knee at {of['bases'][basis]['knee']}" if of["bases"][basis]["knee"] else "")
        for basis, name in BASES.items()
    )
    place = (
        "its last block"
        if of["block"] == of["last_block"]
        else f"block {of['block'] + 1} of {of['last_block'] + 1}, the last whose patch tokens the logits depend on"
    )
    caption = (
        f"Top-1 of `{of['backbone']}` when the patch tokens of {place} keep their first d dimensions and the rest of "
        f"the network runs on what is left. Dims that keep a share of its {of['top1']:.2f} %: {kept}. Dotted: the dims "
        f"that hold {LEVEL} % of these tokens' energy (per image: mean over images). Energy says how many directions "
        "are large, accuracy how many matter: where a curve is flat before its dotted line, directions that hold "
        "energy are not used, and where it still rises beyond, small directions count."
    )
    return figure, caption
