"""How many dimensions hold a share of the energy, and how that number is spread over images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def left_over(energies: np.ndarray) -> np.ndarray:
    """Shares of non-negative energies beyond the first d dimensions, 1 − E(d), along the last axis.

    Summed from the end, so that a small rest is exact where 1 minus a sum near 1 is rounding.

    Args:
        energies: [..., dimensions]; values below 0 by rounding count as 0.

    Returns:
        [..., dimensions] in [0, 1], not rising, ending at 0; all 0 where there is no energy.
    """
    rest = np.cumsum(np.maximum(energies, 0.0)[..., ::-1], axis=-1)[..., ::-1]
    beyond = np.concatenate([rest[..., 1:], np.zeros_like(rest[..., :1])], axis=-1)
    return np.divide(beyond, rest[..., :1], out=np.zeros_like(beyond), where=rest[..., :1] > 0)


def floors(fixed: np.ndarray, per_image: np.ndarray) -> np.ndarray:
    """The smallest possible relative error of a rank-d approximation of all tokens, for d from 1 to D.

    Both are ratios of sums over all images, as the relative feature error is: an image counts by its energy, which
    the mean over images of a share does not do.

    Args:
        fixed: eigenvalues of the shared basis, largest first, [D]. What lies beyond the first d is the error of one
            projector that is the same for every image: no student whose map has rank d goes below it, whatever
            linear map reads it (Eckart–Young).
        per_image: squared singular values of each image's own tokens, largest first, summed or averaged over images,
            [at most D]: the same for a projector that may depend on the image.

    Returns:
        1 − E(d) of the two, [2, D], ending at 0.
    """
    own = np.zeros_like(fixed)
    own[: len(per_image)] = per_image
    return left_over(np.stack([fixed, own]))


def participation_ratio(energies: np.ndarray) -> np.ndarray:
    """(Σe)² / Σe² along the last axis: how many dimensions share the energy, without a threshold.

    Args:
        energies: not negative, [..., dimensions].

    Returns:
        [...], from 1 (one dimension holds all) to dimensions (each holds as much); 0 where there is no energy.
    """
    squares = np.asarray(np.square(energies).sum(axis=-1))
    return np.divide(np.square(energies.sum(axis=-1)), squares, out=np.zeros_like(squares), where=squares > 0)


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


@dataclass(frozen=True)
class Profile:
    """How the energies of many images are spread over dimensions.

    Attributes:
        dims: each image's dims, [images, thresholds].
        curve: mean cumulative shares of the first d dimensions, [dimensions].
        spectrum: mean energy of each dimension, [dimensions].
    """

    dims: np.ndarray
    curve: np.ndarray
    spectrum: np.ndarray


def profile(energies: Iterable[np.ndarray], thresholds: Sequence[int]) -> Profile:
    """Read a profile off the energies of a few images at a time; nothing else of them is kept.

    Args:
        energies: [a few images, dimensions], at least one of them; values below 0 by rounding count as 0.
        thresholds: percents.
    """
    reached = []
    curve = spectrum = np.zeros(1)
    for few in energies:
        cumulative = shares(few)
        reached.append(dims(cumulative, thresholds))
        curve = curve + cumulative.sum(axis=0)
        spectrum = spectrum + few.sum(axis=0)
    counts = np.concatenate(reached)
    return Profile(counts, curve / len(counts), spectrum / len(counts))


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


def percentiles_of_counts(counts: np.ndarray, percents: Sequence[float] | np.ndarray) -> np.ndarray:
    """Percentiles (linear, as numpy's) of whole numbers, by how often each of 0, 1, … occurs.

    Args:
        counts: [numbers]; where all are 0, so are the percentiles.
        percents: from 0 to 100.
    """
    up_to = np.cumsum(counts)
    if up_to[-1] == 0:
        return np.zeros(len(percents))
    places = np.asarray(percents) / 100 * (up_to[-1] - 1)  # among the sorted numbers
    low, high = (np.searchsorted(up_to, at, side="right") for at in (np.floor(places), np.ceil(places)))
    return low + (high - low) * (places - np.floor(places))


def summary_of_counts(counts: np.ndarray, unit: float = 1) -> dict[str, float]:
    """The `summary` of multiples of `unit`, by how often each of 0, 1, … occurs."""
    low, median, high = percentiles_of_counts(counts, (5, 50, 95))
    found = {"mean": counts @ np.arange(len(counts)) / max(1, counts.sum()), "median": median, "p5": low, "p95": high}
    return {name: round(float(value) * unit, 6) for name, value in found.items()}


def by_threshold(values: np.ndarray, thresholds: Sequence[int]) -> dict[str, float]:
    """Values keyed by their thresholds; whole numbers become integers, others are rounded to 1e-6."""
    rounded = [round(float(value), 6) for value in values]
    return {
        str(threshold): int(value) if value.is_integer() else value
        for threshold, value in zip(thresholds, rounded, strict=True)
    }
