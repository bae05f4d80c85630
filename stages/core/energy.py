"""How many dimensions hold a share of the energy, and how that number is spread over images."""

from collections.abc import Sequence

import numpy as np

# A threshold met exactly in exact arithmetic is met here too, whatever the rounding of the sums: sums of up
# to a few thousand float64 terms are right to about 1e-13, so a shortfall below 1e-12 counts as met.
TIE = 1e-12

PERCENTILES = np.arange(101)  # of a distribution, in tables
STATISTICS = ("mean", "std", "median", "p25", "p75", "p99")


def shares(energies: np.ndarray) -> np.ndarray:
    """Cumulative shares of non-negative energies along the last axis; all 1 where there is no energy.

    Args:
        energies: [..., dimensions]; values below 0 by rounding count as 0.

    Returns:
        [..., dimensions] in [0, 1], not falling, ending at 1.
    """
    cumulative = np.cumsum(np.maximum(energies, 0.0), axis=-1)
    total = cumulative[..., -1:]
    return np.divide(cumulative, total, out=np.ones_like(cumulative), where=total > 0)


def dims(cumulative: np.ndarray, thresholds: Sequence[int]) -> np.ndarray:
    """The smallest number of leading dimensions whose energy share reaches each threshold.

    A share within 1e-12 below a threshold reaches it, so that ties do not hang on rounding.

    Args:
        cumulative: cumulative shares, [..., dimensions].
        thresholds: percents.

    Returns:
        [..., thresholds], from 1 to dimensions.
    """
    levels = np.asarray(thresholds) / 100 - TIE
    return (cumulative[..., None, :] < levels[:, None]).sum(axis=-1) + 1


def statistics(values: np.ndarray, thresholds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation (population), median and percentiles (linear) over images.

    Args:
        values: dims per image, [images, thresholds].
        thresholds: percents; they become the keys "80", "90", ….

    Returns:
        dims_mean, dims_std, dims_median, dims_p25, dims_p75, dims_p99, each a mapping by threshold.
    """
    computed = {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "median": np.median(values, axis=0),
        "p25": np.percentile(values, 25, axis=0),
        "p75": np.percentile(values, 75, axis=0),
        "p99": np.percentile(values, 99, axis=0),
    }
    return {f"dims_{name}": by_threshold(computed[name], thresholds) for name in STATISTICS}


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean, median and 5 % and 95 % percentiles of some values, rounded to 1e-6."""
    low, median, high = np.percentile(values, (5, 50, 95))
    found = {"mean": values.mean(), "median": median, "p5": low, "p95": high}
    return {name: round(float(value), 6) for name, value in found.items()}


def by_threshold(values: np.ndarray, thresholds: Sequence[int]) -> dict[str, float]:
    """Values keyed by their thresholds; whole numbers become integers, others are rounded to 1e-6."""
    rounded = [round(float(value), 6) for value in values]
    return {
        str(threshold): int(value) if value.is_integer() else value
        for threshold, value in zip(thresholds, rounded, strict=True)
    }
