"""Bootstrap intervals over images: of means, and of what another sample of images would give."""

from collections.abc import Callable, Sequence

import numpy as np

from stages.core.analysis.dims import by_threshold
from stages.core.base.errors import UserError

LEVEL = 95  # percent
BATCH = 100  # most resamples held in memory at a time
BATCH_VALUES = 2**20  # most values held in memory at a time
TAILS = ((100 - LEVEL) / 2, (100 + LEVEL) / 2)  # percents


def of_means(values: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile intervals of each column's mean; every column is resampled by the same images.

    So the interval of a column that is the difference of two others is their paired interval.

    Args:
        values: [images, columns].
        resamples: how many times the images are drawn with replacement.
        seed: of the draws.

    Returns:
        Lower and upper ends, [columns] each.

    Raises:
        UserError: there are fewer than two images.
    """
    from scipy.stats import bootstrap  # here: `check`, which imports the analyses, takes as long as this import

    if len(values) < 2:
        raise UserError(f"a bootstrap interval needs at least two images, not {len(values)}; raise images_per_class")
    found = bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=max(1, min(BATCH, BATCH_VALUES // values.size)),
        confidence_level=LEVEL / 100,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.confidence_interval.low), np.asarray(found.confidence_interval.high)


def paired(
    observed: np.ndarray, null: np.ndarray, thresholds: Sequence[int], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Means over images of a measure, of its value under a null model, and of their difference, with intervals.

    Args:
        observed, null: [images, thresholds].
        thresholds: percents.
        resamples, seed: as in `of_means`.

    Returns:
        "observed", "null" and "difference", each a mapping of "mean", "low" and "high" to values by threshold.
    """
    values = np.concatenate([observed, null, observed - null], axis=1)
    bounds = {"mean": values.mean(axis=0)}
    bounds["low"], bounds["high"] = of_means(values, resamples, seed)
    parts = {name: np.split(of, 3) for name, of in bounds.items()}
    return {
        kind: {name: by_threshold(of[place], thresholds) for name, of in parts.items()}
        for place, kind in enumerate(("observed", "null", "difference"))
    }


def of_another_sample(
    measured: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    images: int,
    *,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Where a count of dimensions of another sample, of the same kind and as many images, falls in 95 of 100 cases.

    The two-sample bootstrap: θ is this sample's value, θ' that of another sample. θ' − θ varies as θ*₁ − θ*₂ does,
    the difference of the values of two independent resamples, each of as many images drawn with replacement. So the
    interval is θ + the percentiles 2.5 and 97.5 of `resamples` such differences: wider than that of θ alone (by √2 for
    a normal statistic), as both samples vary. Its ends are rounded outwards to whole dimensions, not below 1. Images
    are drawn without regard to their classes, as if another sample might have other classes too.

    Each interval holds by itself: of a hundred values of other samples about five lie outside by chance, fewer where
    rounding outwards widens the interval.

    Args:
        measured: θ of each column, [columns].
        statistic: from the indices of drawn images, [draws, images], to their values, [draws, columns].
        images: of the sample.
        resamples: pairs of resamples.
        seed: of the draws.

    Returns:
        Lower and upper ends, [columns] each.
    """
    rng = np.random.default_rng(seed)
    at_a_time = max(1, min(BATCH, BATCH_VALUES // images))
    drawn = [
        statistic(rng.integers(images, size=(min(at_a_time, 2 * resamples - start), images)))
        for start in range(0, 2 * resamples, at_a_time)
    ]
    first, second = np.split(np.concatenate(drawn), 2)
    low, high = np.round(np.asarray(measured, dtype=float) + np.percentile(first - second, TAILS, axis=0), 6)
    return np.maximum(1, np.floor(low)), np.ceil(high)


def percentile_of_another_sample(
    dims: np.ndarray, thresholds: Sequence[int], resamples: int, seed: int, percent: float = 99
) -> dict[str, dict[str, float]]:
    """`of_another_sample` for a percentile over images (linear, as numpy's) of their dims.

    Args:
        dims: [images, thresholds]. Dims in a shared basis are taken as they are: that another sample has another basis
            is not counted.
        thresholds: percents.
        resamples, seed: as in `of_another_sample`.
        percent: of the percentile.

    Returns:
        "low" and "high", each by threshold.
    """

    def statistic(drawn: np.ndarray) -> np.ndarray:
        return np.percentile(dims[drawn], percent, axis=1)

    measured = np.percentile(dims, percent, axis=0)
    ends = of_another_sample(measured, statistic, len(dims), resamples=resamples, seed=seed)
    return by_end(ends, thresholds)


def by_end(ends: Sequence[np.ndarray], thresholds: Sequence[int]) -> dict[str, dict[str, float]]:
    """The lower and upper ends of intervals as "low" and "high", each by threshold."""
    return {name: by_threshold(of, thresholds) for name, of in zip(("low", "high"), ends, strict=True)}
