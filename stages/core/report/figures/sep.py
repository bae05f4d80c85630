"""Spectral Energy Patterns beside their null models; each function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.base.names import plural
from stages.core.report.style import GREY, backbone_name, legend_below, look, new_figure


def sep(curves: pd.DataFrame, metrics: Mapping[str, Any], backbone: str) -> tuple[Figure, str]:
    """SEP curves of the full and the folded spectrum beside white noise and permuted channels.

    Args:
        curves: sep_curves.csv, rows of any backbones.
        metrics: the backbone's part of sep.json.
        backbone: its name.
    """
    figure = new_figure(9.4, 4.5)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    observed, permuted = look(0), look(3)
    spectra = {"full": metrics, "folded": metrics["folded"]}
    deviations, widest = {}, {}
    for panel, (spectrum, of) in zip(panels, spectra.items(), strict=True):
        chosen = (curves["backbone"] == backbone) & (curves["spectrum"] == spectrum)
        rows = curves[chosen].sort_values("frequency")
        share = rows["share_of_bins"]
        low, high = ((rows["observed"] + sign * rows["token_std"]).clip(0, 1) for sign in (-1, 1))
        panel.fill_between(
            share, low, high, color=observed.color, alpha=0.15, lw=0, label="observed ± 1 std over tokens"
        )
        panel.fill_between(
            share,
            rows["permuted_p5"],
            rows["permuted_p95"],
            color=permuted.color,
            alpha=0.25,
            lw=0,
            label="permuted channels, 5–95 %",
        )
        panel.plot(share, rows["permuted_mean"], color=permuted.color, ls="--", label="permuted channels, mean")
        panel.plot([0, 1], [0, 1], color=GREY, ls=":", label="white noise (diagonal)")
        panel.plot(share, rows["observed"], color=observed.color, label="observed")
        panel.set(title=f"{spectrum} spectrum, {of['bins']} bins", xlabel="share of the frequency bins")
        panel.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        outside = (rows["observed"] < rows["permuted_p5"]) | (rows["observed"] > rows["permuted_p95"])
        deviations[spectrum] = (float((rows["observed"] - share).abs().max()), float(outside.mean()))
        widest[spectrum] = float(rows["token_std"].max())
    panels[0].set_ylabel("mean share of a token's energy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(f"{backbone_name(metrics)}: Spectral Energy Pattern")
    reached = "; ".join(
        f"b({t / 100:g}) = {metrics['bandwidth'][str(t)]:.3f} full (permuted "
        f"{metrics['permuted_bandwidth'][str(t)]:.3f}), "
        f"{metrics['folded']['bandwidth'][str(t)]:.3f} folded (permuted "
        f"{metrics['folded']['permuted_bandwidth'][str(t)]:.3f})"
        for t in dict.fromkeys((min(metrics["thresholds"]), max(metrics["thresholds"])))
    )
    caption = (
        f"Mean share of a token's energy in its lowest channel frequencies, last block of `{backbone}`, over "
        f"{metrics['images']:,} images of {metrics['tokens']} tokens; {metrics['zero_tokens']} tokens that are 0 are "
        "left out. The band around the observed mean is one standard deviation over tokens either side, at most "
        f"{widest['full']:.3f} (full) and {widest['folded']:.3f} (folded): single tokens stray from the mean that far. "
        f"The other band covers {metrics['permutations']} random orders of the channels. {reached}. The largest "
        f"distance of the mean from the diagonal is {deviations['full'][0]:.3f} in the full and "
        f"{deviations['folded'][0]:.3f} in the folded spectrum; the mean lies outside the band of random orders at "
        f"{deviations['full'][1]:.0%} and {deviations['folded'][1]:.0%} of the bins. Where it lies inside, it shows "
        "no more than the same values in random order would."
    )
    return figure, caption


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
    figure.suptitle(f"{backbone_name(metrics)}: SEP minus its expectation under random channel orders")
    full, folded = metrics, metrics["folded"]
    found = "is indistinguishable from a random one" if full["p_value"] > 0.05 else "differs from a random one"
    caption = (
        f"The SEP curve of `{backbone}` minus the closed-form expectation over all orders of its channels; at 0 the "
        f"order makes no difference. Largest gap: {full['largest_gap']:+.4f} at {full['largest_gap_at']:.0%} of the "
        f"bins (full), {folded['largest_gap']:+.4f} at {folded['largest_gap_at']:.0%} (folded). Of "
        f"{metrics['permutations']:,} random orders 95 % have a largest gap below "
        f"{full['largest_gap_permuted_p95']:.4f} and {folded['largest_gap_permuted_p95']:.4f}; the permutation test "
        f"gives p = {full['p_value']:.3g} and {folded['p_value']:.3g}: at the 5 % level the channels' order {found} by "
        "the full curve. The Gaussian tokens have the observed mean and covariance, channel by channel, so they keep "
        "the order; the distance between them and the observed curve (at most "
        f"{full['largest_distance']['gaussian']:.4f} and {folded['largest_distance']['gaussian']:.4f}) is all that the "
        "curve shows beyond mean and covariance."
    )
    return figure, caption


def sep_backbones(curves: pd.DataFrame, sep: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """The SEP curves of all backbones, full spectrum, and their distances from white noise.

    Args:
        curves: sep_curves.csv.
        sep: sep.json.
    """
    figure = new_figure(10.4, 4.4 + 0.1 * len(sep))
    left, right = figure.subplots(1, 2, sharex=True)
    left.plot([0, 1], [0, 1], color=GREY, ls=":", label="white noise")
    right.axhline(0, color=GREY, ls=":")
    distances = {}
    for position, (backbone, of) in enumerate(sep.items()):
        rows = curves[(curves["backbone"] == backbone) & (curves["spectrum"] == "full")].sort_values("frequency")
        share, drawn = rows["share_of_bins"], look(position)
        left.plot(share, rows["observed"], color=drawn.color, ls=drawn.linestyle, lw=1.3, label=backbone_name(of))
        right.plot(share, rows["observed"] - share, color=drawn.color, ls=drawn.linestyle, lw=1.3)
        band = rows[["permuted_p5", "permuted_p95"]].sub(share, axis=0)
        right.fill_between(share, band["permuted_p5"], band["permuted_p95"], color=drawn.color, alpha=0.12, lw=0)
        distances[backbone] = float((rows["observed"] - share).abs().max())
    left.set(ylabel="mean share of a token's energy", title="SEP", xlim=(0, 1), ylim=(0, 1.02))
    right.set(title="SEP minus the diagonal")
    for panel in (left, right):
        panel.set_xlabel("share of the frequency bins")
    legend_below(figure, left, most=3)
    figure.suptitle("Spectral Energy Pattern (SEP) of every backbone, full spectrum")
    largest = "; ".join(f"`{backbone}` {distance:.3f}" for backbone, distance in distances.items())
    caption = (
        f"Mean SEP of the last block of {plural(len(sep), 'backbone')}, full spectrum. Right: "
        "the same minus the diagonal, over the band of 5 to 95 % of random orders of the channels: a curve within its "
        f"band shows nothing that any order would not. Largest distances from the diagonal: {largest}."
    )
    return figure, caption


def permutation(curves: pd.DataFrame, sep: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """What random orders of the channels do to the SEP of every backbone: mean curves, and shifts of bandwidths.

    Args:
        curves: sep_curves.csv.
        sep: sep.json.
    """
    figure = new_figure(11, 4 + 0.2 * len(sep))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    left.axhline(0, color=GREY, ls=":")
    right.axvline(0, color=GREY, lw=1)
    levels = sorted(set.intersection(*(set(of["thresholds"]) for of in sep.values())))[-2:]
    for position, (backbone, of) in enumerate(sep.items()):
        rows = curves[(curves["backbone"] == backbone) & (curves["spectrum"] == "full")].sort_values("frequency")
        share, drawn = rows["share_of_bins"], look(position)
        left.plot(
            share, rows["permuted_mean"] - share, color=drawn.color, ls=drawn.linestyle, lw=1.3, label=backbone_name(of)
        )
        for shift, level in zip((-0.16, 0.16), map(str, levels), strict=False):
            found, filled = of["permutation"], level == str(levels[0])
            mean = found["shift"][level]
            ends = [[max(0.0, mean - found["shift_p5"][level])], [max(0.0, found["shift_p95"][level] - mean)]]
            face = drawn.color if filled else "white"
            right.errorbar(mean, position + shift, xerr=ends, fmt=drawn.marker, color=drawn.color, mfc=face, lw=1.2)
    left.set(xlabel="share of the frequency bins", ylabel="mean share of a token's energy,\nminus the diagonal")
    left.set(title="mean SEP under random orders", xlim=(0, 1))
    right.set_yticks(range(len(sep)), [backbone_name(of) for of in sep.values()], fontsize="small")
    right.set_ylim(len(sep) - 0.5, -0.5)
    limit = max(map(abs, right.get_xlim()))
    right.set_xlim(-limit, limit)
    right.locator_params(axis="x", nbins=5)
    marks = ", ".join(f"b({level / 100:g}) {mark}" for level, mark in zip(levels, ("filled", "hollow"), strict=False))
    right.set(xlabel="bandwidth, permuted minus observed,\nmean and 5–95 % of orders", title=marks)
    if len(sep) > 1:
        legend_below(figure, left, most=3)
    figure.suptitle("SEP under random orders of the channels, full spectrum")
    shifts = "; ".join(
        f"`{backbone}` " + ", ".join(f"{of['permutation']['shift'][str(level)]:+.4f}" for level in levels)
        for backbone, of in sep.items()
    )
    orders = next(iter(sep.values()))["permutation"]["orders"]
    named = " and ".join(f"b({level / 100:g})" for level in levels)
    caption = (
        "Left: the mean SEP curve under random orders of the channels minus the diagonal, "
        f"{plural(len(sep), 'backbone')}; only the mean of a token's channels moves it from 0. Right: the release's "
        "permutation statistic, an image's "
        f"bandwidth under a random order minus that in the observed one, mean over images and {orders} orders, with "
        f"the range of the middle 90 % of the orders. Shifts of {named}: {shifts}. Where a range holds 0, the observed "
        "order is one like any other."
    )
    return figure, caption
