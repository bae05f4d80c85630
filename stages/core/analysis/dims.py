"""How many dimensions hold a share of the energy, and how that number varies over images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# A threshold that is met exactly in exact arithmetic must be met here too, whatever the rounding of the sums. Sums of
# up to a few thousand float64 terms are accurate to about 1e-13, so a shortfall below 1e-12 counts as met.
TIE = 1e-12

BASES = ("shared", "per_image")  # one basis for all images, and one for each
PERCENTILES = np.arange(101)  # of a distribution, in tables
CAPTURED = (50, 10, 1)  # percentiles over images of the captured energy, as the release draws them
STATISTICS = ("mean", "std", "median", "p25", "p75", "p99")


def shares(energies: np.ndarray) -> np.ndarray:
    """Cumulative shares of non-negative energies along the last axis; all 1 where the energy is 0.

    Args:
        energies: [..., dimensions]; values below 0 by rounding count as 0.

    Returns:
        [..., dimensions] in [0, 1], non-decreasing, ending at 1.
    """
    cumulative = np.cumsum(np.maximum(energies, 0.0), axis=-1)
    total = cumulative[..., -1:]
    return np.divide(cumulative, total, out=np.ones_like(cumulative), where=total > 0)


def left_over(energies: np.ndarray) -> np.ndarray:
    """Shares of non-negative energies beyond the first d dimensions, 1 − E(d), along the last axis.

    Summed from the end, so that a small remainder is exact; 1 minus a sum near 1 would lose it to rounding.

    Args:
        energies: [..., dimensions]; values below 0 by rounding count as 0.

    Returns:
        [..., dimensions] in [0, 1], non-increasing, ending at 0; all 0 where the energy is 0.
    """
    rest = np.cumsum(np.maximum(energies, 0.0)[..., ::-1], axis=-1)[..., ::-1]
    beyond = np.concatenate([rest[..., 1:], np.zeros_like(rest[..., :1])], axis=-1)
    return np.divide(beyond, rest[..., :1], out=np.zeros_like(beyond), where=rest[..., :1] > 0)


def floor(energies: np.ndarray, channels: int) -> np.ndarray:
    """The smallest possible relative error of a rank-d approximation of all tokens, for d from 1 to D.

    It is a ratio of sums over all images, like the relative feature error: an image counts in proportion to its energy.
    (A mean over images of shares would give every image the same weight.)

    Args:
        energies: largest first, [at most D]. Of the eigenvalues of the shared basis, the share beyond the first d is
            the least error of one projector for all images: no student whose map has rank d has a smaller one, whatever
            linear map reads it (Eckart–Young). Of the squared singular values of each image's own tokens, summed or
            averaged over images, it is that of a projector that may depend on the image.
        channels: D.

    Returns:
        1 − E(d), [D], ending at 0.
    """
    return left_over(np.pad(energies, (0, channels - len(energies))))


def participation_ratio(energies: np.ndarray) -> np.ndarray:
    """(Σe)² / Σe² along the last axis: how many dimensions share the energy, without a threshold.

    Args:
        energies: non-negative, [..., dimensions].

    Returns:
        [...], from 1 (one dimension holds all) to dimensions (all hold the same); 0 where the energy is 0.
    """
    squares = np.asarray(np.square(energies).sum(axis=-1))
    return np.divide(np.square(energies.sum(axis=-1)), squares, out=np.zeros_like(squares), where=squares > 0)


def dims(cumulative: np.ndarray, thresholds: Sequence[int]) -> np.ndarray:
    """The smallest number of leading dimensions whose energy share reaches each threshold.

    A share at most 1e-12 below a threshold reaches it, so that ties do not depend on rounding.

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
    """How the energies of many images are distributed over dimensions.

    Attributes:
        dims: each image's dims, [images, thresholds].
        curve: mean over images of the cumulative shares of the first d dimensions, [dimensions].
        captured: their percentiles `CAPTURED` over images, [percentiles, dimensions]: the share that all but 1 % of
            the images have in their first d dimensions is the percentile 1.
        spectrum: mean energy of each dimension, [dimensions].
    """

    dims: np.ndarray
    curve: np.ndarray
    captured: np.ndarray
    spectrum: np.ndarray


def profile(energies: Iterable[np.ndarray], thresholds: Sequence[int]) -> Profile:
    """Summarise the energies of images, read a few images at a time; cumulative shares are kept in float32.

    Args:
        energies: [a few images, dimensions], at least one of them; values below 0 by rounding count as 0.
        thresholds: percents.
    """
    reached, kept = [], []
    curve = spectrum = np.zeros(1)
    for few in energies:
        cumulative = shares(few)
        reached.append(dims(cumulative, thresholds))
        kept.append(cumulative.astype(np.float32))
        curve = curve + cumulative.sum(axis=0)
        spectrum = spectrum + few.sum(axis=0)
    counts = np.concatenate(reached)
    captured = np.percentile(np.concatenate(kept), CAPTURED, axis=0, overwrite_input=True)
    return Profile(counts, curve / len(counts), captured, spectrum / len(counts))


def statistics(values: np.ndarray, thresholds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation (population), median and percentiles (linear) over images.

    Args:
        values: dims per image, [images, thresholds].
        thresholds: percents; they become the keys "80", "90", ….

    Returns:
        dims_mean, dims_std, dims_median, dims_p25, dims_p75, dims_p99, each a mapping by threshold.
    """
    return {f"dims_{name}": by_threshold(of, thresholds) for name, of in _statistics(values).items()}


def statistics_of(values: np.ndarray) -> dict[str, float]:
    """The same statistics of one number per image, [images]: mean, std, median, p25, p75, p99."""
    found = {name: round(float(of), 6) for name, of in _statistics(values).items()}
    return {name: int(value) if value.is_integer() else value for name, value in found.items()}


def _statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    median, p25, p75, p99 = np.percentile(values, (50, 25, 75, 99), axis=0)
    found = (values.mean(axis=0), values.std(axis=0), median, p25, p75, p99)
    return dict(zip(STATISTICS, found, strict=True))


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean, median, 5th and 95th percentile of some values, rounded to 1e-6."""
    low, median, high = np.percentile(values, (5, 50, 95))
    found = {"mean": values.mean(), "median": median, "p5": low, "p95": high}
    return {name: round(float(value), 6) for name, value in found.items()}


def percentiles_of_counts(counts: np.ndarray, percents: Sequence[float] | np.ndarray) -> np.ndarray:
    """Percentiles (linear, as numpy's) of integers, from how often each of 0, 1, … occurs.

    numpy's would need every single value: tokens are counted, because there are too many of them to keep.

    Args:
        counts: how often each number occurs, [numbers]; percentiles of no numbers are 0.
        percents: from 0 to 100.
    """
    up_to = np.cumsum(counts)
    if up_to[-1] == 0:
        return np.zeros(len(percents))
    places = np.asarray(percents) / 100 * (up_to[-1] - 1)  # in the sorted numbers
    low, high = (np.searchsorted(up_to, at, side="right") for at in (np.floor(places), np.ceil(places)))
    return low + (high - low) * (places - np.floor(places))


def summary_of_counts(counts: np.ndarray, unit: float = 1) -> dict[str, float]:
    """The `summary` of multiples of `unit`, from how often each of 0, 1, … occurs."""
    low, median, high = percentiles_of_counts(counts, (5, 50, 95))
    found = {"mean": counts @ np.arange(len(counts)) / max(1, counts.sum()), "median": median, "p5": low, "p95": high}
    return {name: round(float(value) * unit, 6) for name, value in found.items()}


def energy_dims(percentile_dims: dict[str, float], channels: int) -> str:
    """The dims that a share of the energy needs, for the highest threshold up to 95 %, in words.

    Args:
        percentile_dims: `dims_p99` of metrics.json: dims by threshold in percent, for 99 % of the images.
        channels: all dims that there are.
    """
    level = shown_level([int(threshold) for threshold in percentile_dims])
    needed = percentile_dims[str(level)]
    return f"for 99 % of the images {needed:.0f} of {channels} dims hold {level} % of the energy"


def shown_level(levels: Sequence[int]) -> int:
    """Of some percentages the highest one up to 95, else the lowest."""
    return max((level for level in levels if level <= 95), default=min(levels))


def image_columns(basis: str, dims: np.ndarray, thresholds: Sequence[int]) -> dict[str, np.ndarray]:
    """What dims.csv holds of a basis: each image's dims, [images, thresholds], a row for each image and threshold."""
    images, levels = np.indices(dims.shape)
    return {"image": images.ravel(), "threshold": np.asarray(thresholds)[levels.ravel()], basis: dims.ravel()}


def energy_columns(basis: str, curve: np.ndarray, captured: np.ndarray) -> dict[str, np.ndarray]:
    """What energy.csv holds of a basis: cumulative energy shares of its first `dims` dimensions.

    Args:
        basis: the column of the mean over images; per_image_p1 is the share that 99 % of the images have at least.
        curve, captured: of a `Profile`.
    """
    percentiles = {f"{basis}_p{percent}": shares for percent, shares in zip(CAPTURED, captured, strict=True)}
    return {"dims": np.arange(len(curve)) + 1, basis: curve, **percentiles}


def named(name: str, values: np.ndarray, thresholds: Sequence[int]) -> dict[str, float]:
    """Values as columns NAME_THRESHOLD."""
    return {f"{name}_{threshold}": float(value) for threshold, value in zip(thresholds, values, strict=True)}


def by_threshold(values: np.ndarray, thresholds: Sequence[int]) -> dict[str, float]:
    """Values keyed by their thresholds; whole numbers become int, others are rounded to 1e-6."""
    rounded = [round(float(value), 6) for value in values]
    return {
        str(threshold): int(value) if value.is_integer() else value
        for threshold, value in zip(thresholds, rounded, strict=True)
    }
