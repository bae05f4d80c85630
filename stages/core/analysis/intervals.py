"""Bootstrap intervals of means over images."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from stages.core.analysis.energy import by_threshold
from stages.core.base.errors import UserError

LEVEL = 95  # percent
BATCH = 100  # most resamples held in memory at a time
BATCH_VALUES = 2**20  # most values held in memory at a time


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
