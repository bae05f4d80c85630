"""Figures of what the analyses show beyond their null models; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.participation import BASES, ORDERS
from stages.core.style import GREY, look, new_figure

KINDS = {
    "within": "two images of one class",
    "across": "images of two classes",
    "shared": "an image and the shared basis",
    "random": "two random subspaces",
}
BASES_TOLD = {"channels": "over the channels", "pca": "over the PCA directions of the dataset"}
ORDERS_TOLD = {"leading": "first directions of the shared basis", "fewest": "fewest directions, chosen for each token"}


def sep_gap(curves: pd.DataFrame, metrics: Mapping[str, Any], backbone: str) -> tuple[Figure, str]:
    """SEP minus its expectation under random channel orders, with the band of such orders.

    Args:
        curves: sep_curves.csv, rows of any backbones.
        metrics: the backbone's part of sep.json.
        backbone: its name.
    """
    figure = new_figure(9.6, 4.4)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    observed, permuted, gaussian = look(0), look(3), look(2)
    spectra = {"full": metrics, "folded": metrics["folded"]}
    for panel, (spectrum, of) in zip(panels, spectra.items(), strict=True):
        chosen = (curves["backbone"] == backbone) & (curves["spectrum"] == spectrum)
        rows = curves[chosen].sort_values("frequency")
        share, expected = rows["share_of_bins"], rows["permuted_expected"]
        panel.fill_between(
            share,
            rows["permuted_p5"] - expected,
            rows["permuted_p95"] - expected,
            color=permuted.color,
            alpha=0.25,
            lw=0,
            label="random orders, 5–95 % at each frequency",
        )
        limit = of["largest_gap_permuted_p95"]
        for sign in (-limit, limit):
            label = "95 % of random orders stay between" if sign > 0 else None
            panel.axhline(sign, color=permuted.color, ls="--", lw=1.2, label=label)
        panel.axhline(0, color=GREY, lw=0.8)
        panel.plot(share, rows["white_noise"] - expected, color=GREY, ls=":", label="white noise")
        panel.plot(share, rows["gaussian"] - expected, color=gaussian.color, ls="-.", label="Gaussian tokens")
        panel.plot(share, rows["observed"] - expected, color=observed.color, label="observed")
        panel.plot(of["largest_gap_at"], of["largest_gap"], "o", color=observed.color, label="its largest gap")
        panel.set(title=f"{spectrum} spectrum: p = {of['p_value']:.3g}", xlabel="share of the frequency bins")
        panel.set(xlim=(0, 1))
    panels[0].set_ylabel("share of the energy,\nminus its expectation over orders")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(f"{_name(metrics)}: SEP minus its expectation under random channel orders")
    full, folded = metrics, metrics["folded"]
    found = "cannot be told from a random one" if full["p_value"] > 0.05 else "differs from a random one"
    caption = (
        f"The SEP curve of `{backbone}` minus the closed-form expectation over all orders of its channels; 0 means "
        f"that the order says nothing. Largest gap: {full['largest_gap']:+.4f} at {full['largest_gap_at']:.0%} of the "
        f"bins (full), {folded['largest_gap']:+.4f} at {folded['largest_gap_at']:.0%} (folded). Of "
        f"{metrics['permutations']:,} random orders 95 % have a largest gap below "
        f"{full['largest_gap_permuted_p95']:.4f} and {folded['largest_gap_permuted_p95']:.4f}; the permutation test "
        f"gives p = {full['p_value']:.3g} and {folded['p_value']:.3g}: at the 5 % level the channels' order {found} by "
        "the full curve. The Gaussian tokens have the observed mean and covariance, channel by channel, so they keep "
        "the order; what is left between them and the observed curve (at most "
        f"{full['largest_distance']['gaussian']:.4f} and {folded['largest_distance']['gaussian']:.4f}) is all that the "
        "curve says beyond mean and covariance."
    )
    return figure, caption


def token_spread(percentiles: pd.DataFrame, pca: Mapping[str, Any]) -> tuple[Figure, str]:
    """Participation ratios of tokens and the directions they need, beside Gaussian tokens.

    Args:
        percentiles: participation.csv, rows of any backbones.
        pca: the backbone's part of pca.json.
    """
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    white = (pca["channels"] + 2) / 3
    for position, basis in enumerate(BASES):
        rows = percentiles[(percentiles["backbone"] == pca["backbone"]) & (percentiles["basis"] == basis)]
        color = look(3 * position).color
        left.plot(rows["observed"], rows["percentile"], color=color, label=f"{BASES_TOLD[basis]}, observed")
        left.plot(rows["gaussian"], rows["percentile"], color=color, ls="--", label=f"{BASES_TOLD[basis]}, Gaussian")
    left.axvline(white, color=GREY, ls=":", label=f"white noise in any basis: (D + 2)/3 = {white:.3g}")
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
                label=f"{ORDERS_TOLD[order]}, {'observed' if name == 'observed' else 'Gaussian'}",
            )
    right.set_xticks(list(places), [f"{threshold} %" for threshold in pca["thresholds"]])
    right.set(xlabel="share of the token's energy", ylabel="directions (mean, 5–95 % of tokens)")
    right.set_ylim(bottom=0)
    right.set_title("PCA directions that a single token needs")
    for panel in (left, right):
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize="x-small")
    figure.suptitle(f"{_name(pca)}: how far a single token spreads, last block")
    ratios, top = pca["participation_ratio"], str(max(pca["thresholds"]))
    both = "; ".join(
        f"{BASES_TOLD[basis]} {of['observed']['mean']:.1f} (Gaussian {of['gaussian']['mean']:.1f})"
        for basis, of in ((basis, ratios[basis]) for basis in BASES)
    )
    needed = pca["token_dims"]
    caption = (
        f"Left: the participation ratio (Σe)²/Σe² of {pca['tokens_with_energy']:,} tokens of `{pca['backbone']}`, of "
        f"{pca['channels']} at most; it does not depend on the order of the coordinates. On average {both}. White "
        f"noise has about {white:.1f} in any basis, not {pca['channels']}. Right: directions of the shared basis "
        f"for a share of one token's energy; for {top} % the first "
        f"{needed['leading'][top]['observed']['mean']:.1f} on average "
        f"(Gaussian {needed['leading'][top]['gaussian']['mean']:.1f}), or any "
        f"{needed['fewest'][top]['observed']['mean']:.1f} chosen for the token (Gaussian "
        f"{needed['fewest'][top]['gaussian']['mean']:.1f}). Gaussian: {pca['gaussian_tokens']:,} tokens with the "
        "observed mean and covariance. Where observed and Gaussian agree, mean and covariance explain the spread; "
        "where the PCA directions need fewer coordinates than the channels, the spread over channels comes "
        "from the basis."
    )
    return figure, caption


def rotation(angles: pd.DataFrame, overlap: pd.DataFrame, metrics: Mapping[str, Any]) -> tuple[Figure, str]:
    """Principal angles and overlaps of the images' subspaces beside random ones.

    Args:
        angles: angles.csv, rows of any backbones.
        overlap: overlap.csv, rows of any backbones.
        metrics: the backbone's part of rotation.json.
    """
    figure = new_figure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    positions = {"within": 0, "across": 3, "shared": 2, "random": 7}
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
    left.set(xlabel="principal angle, smallest first", ylabel="degrees (mean, 5–95 % of pairs)", ylim=(0, 91))
    left.set_yticks(range(0, 91, 15))
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="overlap: mean squared cosine", ylabel="pairs at or below, %", xlim=(0, 1), ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    k = metrics["k"]
    figure.suptitle(f"{_name(metrics)}: subspaces of {k} dimensions per image, last block")
    overlaps = "; ".join(
        f"{KINDS[kind]} {metrics['overlap'][kind]['mean']:.3f} ({metrics['mean_angle_degrees'][kind]['mean']:.0f}°, "
        f"{metrics['compared'][kind]:,})"
        for kind in metrics["kinds"]
    )
    within = "" if "within" in metrics["kinds"] else " There is one image a class, so no pair within one."
    ranks, stable = metrics["effective_rank"], metrics["stable_rank"]
    caption = (
        f"How far the subspaces of the first {k} right singular vectors turn from one another; {k} is the median "
        f"number of dimensions for {metrics['level']} % of an image's energy, of {metrics['channels']}. Mean "
        f"overlap (mean angle, pairs): {overlaps}. Equal subspaces would have 1; random ones {expected:.3f} (dotted)."
        f"{within} More overlap than random ones have shows only that the images share something, of which a common "
        "mean is enough; "
        "a lower overlap across classes than within shows that they depend on the class. Effective rank of one image "
        f"{ranks['per_image']['mean']:.1f} on average, of all images together {ranks['union']:.1f}; stable rank "
        f"{stable['per_image']['mean']:.2f} and {stable['union']:.2f}."
    )
    return figure, caption


def _name(of: Mapping[str, Any]) -> str:
    """A backbone's name, with a mark on random weights."""
    return f"{of['backbone']}{' (random weights)' if of['weights'] == 'random' else ''}"
