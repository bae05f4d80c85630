"""How far the energy of single tokens spreads; every number in a caption is read from the data."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.analysis.participation import BASES, ORDERS
from stages.core.report.style import GREY, backbone_name, look, new_figure

BASIS_LABELS = {"channels": "over the channels", "shared": "over the directions of the shared basis (PCA)"}

ORDER_LABELS = {"leading": "first directions of the shared basis", "fewest": "fewest, chosen for each token"}


def token_spread(percentiles: pd.DataFrame, pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """Participation ratios of tokens and the directions they need, beside Gaussian tokens.

    Args:
        percentiles: participation.csv, rows of any backbones.
        pca: the backbone's part of pca.json.
    """
    figure = new_figure(10.4, 5)
    left, right = figure.subplots(1, 2)
    white = (pca["channels"] + 2) / 3
    for position, basis in enumerate(BASES):
        rows = percentiles[(percentiles["backbone"] == pca["backbone"]) & (percentiles["basis"] == basis)]
        color = look(3 * position).color
        left.plot(rows["observed"], rows["percentile"], color=color, label=BASIS_LABELS[basis])
        left.plot(rows["gaussian"], rows["percentile"], color=color, ls="--", label="the same, Gaussian tokens")
    left.axvline(white, color=GREY, ls=":", label=f"white noise in any basis: {white:.3g}")
    left.set(xlabel="participation ratio of a token, coordinates", ylabel="tokens at or below, %", ylim=(0, 100))
    left.set_xlim(left=0)
    left.set_title("coordinates that share a token's energy")
    places = range(len(pca["thresholds"]))
    for position, order in enumerate(ORDERS):
        for shift, (name, face) in enumerate((("observed", None), ("gaussian", "white"))):
            of = [pca["token_dims"][order][str(threshold)][name] for threshold in pca["thresholds"]]
            drawn = look(1 + position)
            means = [one["mean"] for one in of]
            right.errorbar(
                [place + 0.16 * (2 * position + shift) - 0.24 for place in places],
                means,
                [
                    [max(0, one["mean"] - one["p5"]) for one in of],
                    [max(0, one["p95"] - one["mean"]) for one in of],
                ],
                fmt=drawn.marker,
                color=drawn.color,
                markerfacecolor=face or drawn.color,
                lw=1.2,
                label=ORDER_LABELS[order] if name == "observed" else "the same, Gaussian tokens",
            )
    right.set_xticks(list(places), [f"{threshold} %" for threshold in pca["thresholds"]])
    right.set(xlabel="share of the token's energy", ylabel="directions (mean, 5–95 % of tokens)")
    right.set_ylim(bottom=0)
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set_title("PCA directions that a single token needs")
    for panel in (left, right):
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small")
    figure.suptitle(f"{backbone_name(pca)}: how far a single token spreads, last block")
    ratios, top = pca["participation_ratio"], str(max(pca["thresholds"]))
    both = "; ".join(
        f"{BASIS_LABELS[basis]} {of['observed']['mean']:.1f} (Gaussian {of['gaussian']['mean']:.1f})"
        for basis, of in ((basis, ratios[basis]) for basis in BASES)
    )
    needed = pca["token_dims"]
    caption = (
        f"Left: the participation ratio (Σe)²/Σe² of {pca['tokens_with_energy']:,} tokens of `{pca['backbone']}`, of "
        f"{pca['channels']} at most; it does not depend on the order of the coordinates. On average {both}. White "
        f"noise has about (D + 2)/3 = {white:.1f} in any basis, not {pca['channels']}. Right: directions of the "
        f"shared basis for a share of one token's energy; for {top} % the first "
        f"{needed['leading'][top]['observed']['mean']:.1f} on average "
        f"(Gaussian {needed['leading'][top]['gaussian']['mean']:.1f}), or any "
        f"{needed['fewest'][top]['observed']['mean']:.1f} chosen for the token (Gaussian "
        f"{needed['fewest'][top]['gaussian']['mean']:.1f}). Gaussian: {pca['gaussian_tokens']:,} tokens with the "
        "observed mean and covariance. Where observed and Gaussian agree, mean and covariance explain the spread; "
        "where the PCA directions need fewer coordinates than the channels, the spread over channels comes "
        "from the basis."
    )
    return figure, caption
