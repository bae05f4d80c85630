"""Angles and overlaps of the images' subspaces; every number in a caption is read from the data."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, backbone_name, look, new_figure

KINDS = {
    "within": "two images of one class",
    "across": "images of two classes",
    "shared": "an image and the shared basis",
    "random": "two random subspaces",
}


def rotation(angles: pd.DataFrame, overlap: pd.DataFrame, metrics: Mapping[str, Any]) -> tuple[Figure, str]:
    """Principal angles and overlaps of the images' subspaces beside random ones.

    Args:
        angles: angles.csv, rows of any backbones.
        overlap: overlap.csv, rows of any backbones.
        metrics: the backbone's part of rotation.json.
    """
    figure = new_figure(9.6, 4.6)
    left, right = figure.subplots(1, 2)
    positions = {"within": 0, "across": 3, "shared": 2, "random": 8}
    for kind in metrics["kinds"]:
        drawn = look(positions[kind])
        rows = angles[(angles["backbone"] == metrics["backbone"]) & (angles["kind"] == kind)].sort_values("angle")
        left.fill_between(rows["angle"], rows["p5"], rows["p95"], color=drawn.color, alpha=0.18, lw=0)
        label = KINDS[kind]
        left.plot(rows["angle"], rows["mean"], color=drawn.color, ls=drawn.linestyle, label=label)
        rows = overlap[(overlap["backbone"] == metrics["backbone"]) & (overlap["kind"] == kind)]
        right.plot(rows["overlap"], rows["percentile"], color=drawn.color, ls=drawn.linestyle)
    expected = metrics["expected_random_overlap"]
    right.axvline(expected, color=GREY, ls=":", lw=1)
    beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "color": GREY, "fontsize": "small"}
    right.annotate(f"expected of\nrandom ones: {expected:.3g}", (expected, 88), **beside)
    left.set(xlabel="principal angle, smallest first", ylabel="degrees (mean, 5–95 % of pairs)", ylim=(0, 91))
    left.set_yticks(range(0, 91, 15))
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="overlap: mean squared cosine", ylabel="pairs at or below, %", xlim=(0, 1), ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    k = metrics["k"]
    figure.suptitle(f"{backbone_name(metrics)}: subspaces of {k} dimensions per image, last block")
    overlaps = "; ".join(
        f"{KINDS[kind]} {metrics['overlap'][kind]['mean']:.3f} ({metrics['mean_angle_degrees'][kind]['mean']:.0f}°, "
        f"{metrics['compared'][kind]:,})"
        for kind in metrics["kinds"]
    )
    within = "" if "within" in metrics["kinds"] else " There is one image per class, so no pair within one."
    ranks, stable = metrics["effective_rank"], metrics["stable_rank"]
    caption = (
        f"Angles between the subspaces of the first {k} right singular vectors of two images; {k} is the median "
        f"number of dimensions for {metrics['level']} % of an image's energy, of {metrics['channels']}. The nearer the "
        "images' curves come to that of random subspaces, the more their subspaces rotate from image to image. Mean "
        f"overlap (mean angle, pairs): {overlaps}. Equal subspaces have overlap 1, random "
        f"ones {expected:.3f} on average (dotted)."
        f"{within} An overlap above that of random ones shows only that the images have something in common, for "
        "which a common mean is enough; a lower overlap across classes than within shows that the subspaces depend on "
        "the class. Effective rank of one image "
        f"{ranks['per_image']['mean']:.1f} on average, of all images together {ranks['shared']:.1f}; stable rank "
        f"{stable['per_image']['mean']:.2f} and {stable['shared']:.2f}."
    )
    return figure, caption
