"""Null models of the Spectral Energy Pattern: white noise, channels in random order, Gaussian tokens.

Mean spectra are folded, [⌊D/2⌋+1], as in `stages.core.analysis.spectra`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.core.analysis.dims import TIE, by_threshold, dims
from stages.core.features.store import chunks

# Nodes of the trapezoidal rule on ln t: it converges exponentially for the smooth integrand of `gaussian_moment`.
LOG_RANGE = (-40.0, 90.0)
LOG_STEP = 0.05

EXPECTED = ("white_noise", "permuted_expected", "gaussian")  # null models whose mean spectra are computed exactly


def white_noise(channels: int) -> np.ndarray:
    """The mean spectrum of tokens of independent, identically and symmetrically distributed channels: 1/D per bin."""
    return _mirrors(channels) / channels


def permutation_expectation(share_at_zero: np.ndarray, channels: int) -> np.ndarray:
    """The mean spectrum under a uniformly random order of the channels, in closed form.

    No order changes F₀ = (Σx)². E x_π(a) x_π(b) is the same for all a ≠ b, and the waves of every other frequency sum
    to 0, so the D − 1 other bins have the same expectation, (D‖x‖² − (Σx)²) / (D − 1). The mean over tokens depends
    only on the mean of (Σx)² / (D‖x‖²), the first bin of their mean spectrum.

    Args:
        share_at_zero: mean of (Σx)² / (D‖x‖²) over tokens, [...].
        channels: D.

    Returns:
        [..., ⌊D/2⌋+1], summing to 1.
    """
    share = np.asarray(share_at_zero, dtype=float)[..., None]
    expected = (1 - share) / max(1, channels - 1) * _mirrors(channels)
    expected[..., :1] = share
    return expected


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution over tokens.

    Attributes:
        mean: [D].
        covariance: [D, D].
    """

    mean: np.ndarray
    covariance: np.ndarray

    def sample(self, tokens: int, seed: int) -> np.ndarray:
        """Independent tokens, [tokens, D]."""
        variances, axes = np.linalg.eigh(self.covariance)
        normal = np.random.default_rng(seed).normal(size=(tokens, len(self.mean)))
        return self.mean + (normal * np.sqrt(np.maximum(variances, 0.0))) @ axes.T


def fit_gaussian(features: np.ndarray) -> Gaussian:
    """The normal distribution with the mean and the (population) covariance of all tokens.

    Args:
        features: [images, tokens, channels].

    Raises:
        UserError: a feature is not finite.
    """
    images, tokens, channels = features.shape
    total, squares = np.zeros(channels), np.zeros((channels, channels))
    for chunk in chunks(features):
        flat = chunk.reshape(-1, channels)
        total += flat.sum(axis=0)
        squares += flat.T @ flat
    mean = total / (images * tokens)
    return Gaussian(mean, squares / (images * tokens) - np.outer(mean, mean))


def gaussian_moment(gaussian: Gaussian) -> np.ndarray:
    """E x xᵀ/‖x‖² of a Gaussian token, [D, D] with trace 1: what `spectrum_of_moment` takes.

    1/‖x‖² = ∫ exp(−t‖x‖²) dt over t > 0, and x weighted by the integrand is again Gaussian. In the axes of the
    covariance, with variances λ, mean μ and s = 1 + 2tλ:
    E x xᵀ exp(−t‖x‖²) = Π s^(−1/2) exp(−t Σ μ²/s) · (diag(λ/s) + (μ/s)(μ/s)ᵀ). The integral over t is computed
    numerically.
    """
    variances, axes = np.linalg.eigh(gaussian.covariance)
    energy = np.trace(gaussian.covariance) + gaussian.mean @ gaussian.mean
    if energy <= 0:
        return np.zeros_like(gaussian.covariance)
    # x/‖x‖ does not depend on the scale of x: at mean energy 1 the range of t fits every token.
    variances = np.where(variances > TIE * variances[-1], variances, 0.0) / energy
    mean = axes.T @ gaussian.mean / np.sqrt(energy)
    times = np.exp(np.arange(*LOG_RANGE, LOG_STEP))[:, None]  # [nodes, 1]
    stretch = 1 + 2 * times * variances
    exponents = -0.5 * np.log(stretch).sum(axis=1) - (times * mean**2 / stretch).sum(axis=1)
    weights = np.exp(exponents) * times[:, 0] * LOG_STEP
    shifted = mean / stretch * np.sqrt(weights)[:, None]
    moment = np.diag(weights @ (variances / stretch)) + shifted.T @ shifted
    return axes @ moment @ axes.T


@dataclass(frozen=True)
class Gap:
    """The largest distance of a curve from its expectation under random orders of the channels.

    Attributes:
        value: observed minus expected at the bin where their distance is largest.
        bin: that bin, from 0; the first of equal ones.
        permuted_p95: the 95th percentile of the largest distance of permuted curves.
        p_value: the share of curves, permuted and observed, whose largest distance is at least that of the observed.
    """

    value: float
    bin: int
    permuted_p95: float
    p_value: float


def largest_gap(observed: np.ndarray, expected: np.ndarray, permuted: np.ndarray) -> Gap:
    """Test whether the order of the channels is one like any other, by the largest gap between curves.

    p = (1 + n) / (1 + permutations), where n permuted curves are at least as far from the expectation as the observed
    one. For a uniformly random order the probability of p ≤ α is at most α.

    Args:
        observed: a cumulative curve, [bins].
        expected: its expectation, [bins].
        permuted: curves under random orders, [permutations, bins].
    """
    gaps = observed - expected
    sizes = np.abs(gaps)
    place = int(np.argmax(sizes >= sizes.max() - TIE))  # a full spectrum is symmetric: its gap is there twice
    distances = np.abs(permuted - expected).max(axis=1)
    farther = int(np.count_nonzero(distances >= abs(gaps[place]) - TIE))
    return Gap(
        value=float(gaps[place]),
        bin=place,
        permuted_p95=float(np.percentile(distances, 95)),
        p_value=(1 + farther) / (1 + len(permuted)),
    )


def against(
    observed: np.ndarray, expected: Mapping[str, np.ndarray], permuted: np.ndarray, thresholds: Sequence[int]
) -> dict[str, Any]:
    """The null models' bandwidths, and the distances of the observed curve from theirs.

    Args:
        observed: a cumulative curve, [bins].
        expected: the curve of each null model of EXPECTED, [bins].
        permuted: curves under random orders of the channels, [permutations, bins].
        thresholds: percents.
    """
    bins = len(observed)
    gap = largest_gap(observed, expected["permuted_expected"], permuted)
    return {
        **{f"{name}_bandwidth": by_threshold(dims(of, thresholds) / bins, thresholds) for name, of in expected.items()},
        "largest_distance": {name: round(float(np.abs(observed - of).max()), 6) for name, of in expected.items()},
        "largest_gap": round(gap.value, 6),
        "largest_gap_at": round((gap.bin + 1) / bins, 6),  # share of the bins
        "largest_gap_permuted_p95": round(gap.permuted_p95, 6),
        "p_value": round(gap.p_value, 6),
    }


def _mirrors(channels: int) -> np.ndarray:
    """How many of the D bins each folded bin is the sum of: two, or one for a bin without a mirror image."""
    bins = np.full(channels // 2 + 1, 2.0)
    bins[0] = 1
    if channels % 2 == 0:
        bins[-1] = 1
    return bins
