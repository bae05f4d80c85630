"""Dims that accuracy needs, beside dims that energy needs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, OWN, SHARED, backbone_name, new_figure

LEVEL = "95"  # percent of the energy whose dims are drawn
BASES = {"own": "each image's own directions", "shared": "directions that all images share"}


def accuracy_by_dims(
    curve: pd.DataFrame, rank: Mapping[str, Any], energy: Mapping[str, Mapping[str, float]]
) -> tuple[Figure, str]:
    """The teacher's top-1 by the dimensions that its tokens keep.

    Args:
        curve: rank.csv.
        rank: rank.json, of a teacher that was measured.
        energy: by basis and threshold, dims of the energy, as `tables.representation.teacher_energy_dims` gives them.
    """
    figure = new_figure(7.6, 4.2)
    panel = figure.subplots()
    panel.axhline(rank["top1"], color=GREY, ls=":")
    panel.annotate(
        f"all {rank['channels']}: {rank['top1']:.1f} %",
        (curve["dims"].iloc[0], rank["top1"]),
        xytext=(0, 4),
        textcoords="offset points",
        color=GREY,
        fontsize="small",
    )
    for (basis, name), drawn in zip(BASES.items(), (OWN, SHARED), strict=True):
        panel.plot(curve["dims"], curve[basis], color=drawn.color, marker=drawn.marker, ls=drawn.linestyle, label=name)
        dims = energy.get(basis, {}).get(LEVEL)
        if dims is not None:
            label = f"{LEVEL} % of the energy, {basis}: {dims:.3g}"
            panel.axvline(dims, color=drawn.color, lw=0.9, ls=(0, (2, 2)), label=label)
    panel.set_xscale("log")
    ticks = [d for d in curve["dims"] if d in (1, 2, 3, 5, 8, 15, 28, 52, 96, 192, 384) or d == curve["dims"].iloc[-1]]
    panel.set_xticks(ticks, [str(d) for d in ticks], minor=False)
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set(xlabel="dimensions that every token keeps", ylabel="teacher's top-1 on the validation images, %")
    panel.set_title(f"{backbone_name({'backbone': 'teacher', **rank})}: dims that accuracy needs")
    panel.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")  # a dotted line may pass behind
    kept = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{d if d is not None else 'more than ' + str(rank['channels'])} for {share} %"
            for share, d in rank["bases"][basis]["dims"].items()
        )
        + (f", knee at {rank['bases'][basis]['knee']}" if rank["bases"][basis]["knee"] else "")
        for basis, name in BASES.items()
    )
    place = (
        "its last block"
        if rank["block"] == rank["last_block"]
        else f"block {rank['block'] + 1} of {rank['last_block'] + 1}, the last whose patch tokens the logits depend on"
    )
    caption = (
        f"Top-1 of the teacher when the patch tokens of {place} keep their first d dimensions and the rest of the "
        f"network runs on what is left. Dims that keep a share of its {rank['top1']:.2f} %: {kept}. Dotted: the dims "
        f"that hold {LEVEL} % of the energy (own: mean over images). Energy says how many directions are large, "
        "accuracy how many matter: where a curve is flat before its dotted line, directions that hold energy are not "
        "used, and where it still rises beyond, small directions count."
    )
    return figure, caption
