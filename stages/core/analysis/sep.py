"""Spectral Energy Pattern (SEP) of a backbone's last-block tokens, beside its null models (paper, SEP)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.analysis import intervals, nulls, permutation, spectra
from stages.core.analysis.dims import dims, named, shares
from stages.core.analysis.registry import Columns, Levels, Measured, Source
from stages.core.base.arrays import read_npy
from stages.core.config.schema import Count
from stages.core.features.store import last_block

PURPOSE = "how each token spreads its energy, beside {permutations} random channel orders"
CURVES = ("observed", "permuted_mean", "permuted_p5", "permuted_p95")


class Params(Levels):
    """Spectral Energy Pattern, and its null model of random channel orders."""

    permutations: Count


def measure(source: Source, settings: Params) -> Measured:
    """The patterns of the full and the folded spectrum: curves, null models, dims per image, bandwidths."""
    thresholds, drawn = settings.thresholds, {"resamples": settings.resamples, "seed": settings.seed}
    tokens = last_block(source.features)
    channels = tokens.shape[2]
    images, moment = spectra.image_dims(tokens, thresholds), spectra.moment(tokens)
    mean = spectra.spectrum_of_moment(moment)  # as the permuted ones: no difference between them is one of rounding
    folded = {
        "mean": mean,
        "permuted": spectra.permuted_spectra(moment, settings.permutations, settings.seed),
        "white_noise": nulls.white_noise(channels),
        "permuted_expected": nulls.permutation_expectation(mean[0], channels),
        "gaussian": spectra.spectrum_of_moment(nulls.gaussian_moment(nulls.fit_gaussian(tokens))),
    }
    full = {name: spectra.unfold(spectrum, channels) for name, spectrum in folded.items()}
    token_std = spectra.token_std(tokens)
    arrays: dict[str, np.ndarray] = {}
    metrics: dict[str, Any] = {}
    for name, spectrum in {"folded": folded, "full": full}.items():
        pattern = spectra.pattern(spectrum["mean"], spectrum["permuted"], thresholds)
        expected = {null: shares(spectrum[null]) for null in nulls.EXPECTED}
        reached, under_null = (
            by_spectrum[name][images.with_energy] / len(spectrum["mean"])
            for by_spectrum in (images.observed, images.expected)
        )
        metrics[name] = {
            **pattern.metrics,
            **nulls.against(pattern.curve[0], expected, shares(spectrum["permuted"]), thresholds),
            "bandwidth_over_images": intervals.paired(reached, under_null, thresholds, **drawn),
        }
        arrays |= {
            f"curve_{name}": pattern.curve,  # [CURVES, bins]
            f"nulls_{name}": np.stack(list(expected.values())),  # [nulls.EXPECTED, bins]
            f"std_{name}": token_std[name],  # over tokens, [bins]
            f"dims_{name}": images.observed[name].astype(np.int32),
        }
    reached_dims = list(metrics["full"]["dims"].values())
    recorded = {
        "thresholds": thresholds,
        "zero_tokens": images.zero_tokens,
        "permutations": settings.permutations,
        "resamples": settings.resamples,
        "interval_level": intervals.LEVEL,
        **metrics["full"],
        "another_sample": spectra.dims_of_another_sample(images, reached_dims, channels, thresholds, **drawn),
        "one_image": spectra.dims_of_one_image(images, thresholds),
        "folded": metrics["folded"],
        "permutation": permutation.shift_metrics(permutation.shifts(tokens, thresholds), thresholds, **drawn),
    }
    level = max(thresholds)
    wide, null = (round(100 * recorded[name][str(level)]) for name in ("bandwidth", "white_noise_bandwidth"))
    found = f"{level} % of the energy need {wide} % of the channel frequencies (white noise: {null} %)"
    return Measured(recorded, arrays, found)


def columns(metrics: dict[str, Any]) -> dict[str, float]:
    """sep_90: the number of frequencies at which the mean SEP curve (full spectrum) reaches 90 %."""
    return {f"sep_{level}": value for level, value in metrics["dims"].items()}


def tables(folder: Path) -> Iterator[tuple[str, Columns]]:
    """SEP curves: observed with its standard deviation over tokens, under permuted channels, and of the other nulls."""
    for spectrum in ("full", "folded"):
        curves = dict(zip(CURVES, read_npy(folder / f"curve_{spectrum}.npy"), strict=True))
        token_std = read_npy(folder / f"std_{spectrum}.npy")
        expected = dict(zip(nulls.EXPECTED, read_npy(folder / f"nulls_{spectrum}.npy"), strict=True))
        frequency = np.arange(len(token_std)) + 1
        place = {"spectrum": spectrum, "frequency": frequency, "share_of_bins": frequency / len(frequency)}
        yield "sep_curves", {**place, **curves, "token_std": token_std, **expected}


def of_map(tokens: np.ndarray, settings: Params) -> dict[str, float]:
    """Of one model's last block: b(α) of the mean SEP curve, over the full and the folded spectrum.

    Args:
        tokens: [images, tokens, channels].
        settings: of the analysis.

    Returns:
        bandwidth_90, bandwidth_folded_90, …; with the prefix permuted_, the mean under random orders of the channels.

    Raises:
        UserError: a feature is not finite.
    """
    thresholds, channels = settings.thresholds, tokens.shape[2]
    mean = spectra.mean_spectra(tokens).mean()
    permuted = spectra.permuted_spectra(spectra.moment(tokens), settings.permutations, settings.seed)
    row: dict[str, float] = {}
    for name, unfold in (("bandwidth", True), ("bandwidth_folded", False)):
        observed, null = (spectra.unfold(folded, channels) if unfold else folded for folded in (mean, permuted))
        bins = len(observed)
        row |= named(name, dims(shares(observed), thresholds) / bins, thresholds)
        row |= named(f"permuted_{name}", dims(shares(null), thresholds).mean(axis=0) / bins, thresholds)
    return row
