"""Spectral Energy Patterns, beside their nulls."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stages.core.report.style import GREY, LINES, PALETTE, backbone_name, look, new_figure


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
    deviations = {}
    for panel, (spectrum, of) in zip(panels, spectra.items(), strict=True):
        chosen = (curves["backbone"] == backbone) & (curves["spectrum"] == spectrum)
        rows = curves[chosen].sort_values("frequency")
        share = rows["share_of_bins"]
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
    panels[0].set_ylabel("mean share of a token's energy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, fontsize="small")
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
        f"{metrics['images']:,} images of {metrics['tokens']} tokens; {metrics['zero_tokens']} tokens without "
        f"energy are left out. The band covers {metrics['permutations']} random orders of the channels. {reached}. The "
        f"largest distance from the diagonal is {deviations['full'][0]:.3f} in the full and "
        f"{deviations['folded'][0]:.3f} in the folded spectrum; the observed curve lies outside the band at "
        f"{deviations['full'][1]:.0%} and {deviations['folded'][1]:.0%} of the bins. Where it lies inside, it says no "
        "more than the same values in random order would."
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
        line = LINES[(position + position // len(PALETTE)) % len(LINES)]  # a colour that comes again gets another line
        name = f"{backbone}{' (random weights)' if of['weights'] == 'random' else ''}"
        left.plot(share, rows["observed"], color=drawn.color, ls=line, lw=1.3, label=name)
        right.plot(share, rows["observed"] - share, color=drawn.color, ls=line, lw=1.3)
        band = rows[["permuted_p5", "permuted_p95"]].sub(share, axis=0)
        right.fill_between(share, band["permuted_p5"], band["permuted_p95"], color=drawn.color, alpha=0.12, lw=0)
        distances[backbone] = float((rows["observed"] - share).abs().max())
    left.set(ylabel="mean share of a token's energy", title="SEP", xlim=(0, 1), ylim=(0, 1.02))
    right.set(title="SEP minus the diagonal; bands: permuted channels, 5–95 %")
    for panel in (left, right):
        panel.set_xlabel("share of the frequency bins")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="x-small")
    figure.suptitle("Spectral Energy Pattern of every backbone, full spectrum")
    largest = "; ".join(f"`{backbone}` {distance:.3f}" for backbone, distance in distances.items())
    caption = (
        f"Mean SEP of the last block of {len(sep)} backbone{'' if len(sep) == 1 else 's'}, full spectrum. Right: "
        f"the same minus the diagonal, over the band of randomly permuted channels. Largest distances: {largest}."
    )
    return figure, caption
