"""One difference between two settings, its interval and its test: paired over seeds, or over images.

Also the words of its verdict, which is decided here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stages.core.evidence.simultaneous import LEVEL

HIGHER, LOWER, NOT_SHOWN = "higher", "lower", "no difference shown"


@dataclass(frozen=True)
class Difference:
    """A difference with its interval (NaN where none can be computed) and the p of its test, not adjusted."""

    difference: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        return HIGHER if self.low > 0 else LOWER if self.high < 0 else NOT_SHOWN


def without_interval(difference: float) -> Difference:
    """A difference of which nothing more is known."""
    return Difference(float(difference), np.nan, np.nan, np.nan)


def bonferroni(comparisons: int) -> float:
    """The level of each of some intervals that together hold at `LEVEL`, whatever their dependence."""
    return 1 - (1 - LEVEL) / comparisons


def pooled_t(difference: float, error: float, freedom: int, critical: float) -> Difference:
    """A difference whose standard error comes from a variance that is pooled over all settings.

    Args:
        difference: the estimate.
        error: its standard error; not a number where the difference is not determined.
        freedom: degrees of freedom of the pooled variance.
        critical: the interval is difference ± critical · error.
    """
    if not error > 0:
        return without_interval(difference)
    half, p = critical * error, 2 * stats.t.sf(abs(difference) / error, freedom)
    return Difference(float(difference), float(difference - half), float(difference + half), float(p))


def paired_t(differences: Sequence[float] | np.ndarray, level: float) -> Difference:
    """The mean of paired differences, one a seed, by Student's t: no assumption on other settings.

    Two seeds leave one degree of freedom: the 95 % interval is 9 standard deviations wide either side. Where all
    differences are equal (accuracies are counts of images) their spread is unknown: no interval.

    Args:
        differences: at least two.
        level: of the interval.

    Raises:
        ValueError: fewer than two differences.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        raise ValueError("a paired t interval needs two differences or more")
    mean = values.mean()
    if stats.sem(values) <= 1e-9 * max(1.0, abs(mean)):
        return without_interval(mean)
    found = stats.ttest_1samp(values, 0)
    low, high = found.confidence_interval(level)
    return Difference(float(mean), float(low), float(high), float(found.pvalue))


def mcnemar(first_only: int, second_only: int, images: int, level: float) -> Difference:
    """The difference of two accuracies on the same images, in percentage points.

    The test is McNemar's exact one (binomial in the images that exactly one model classifies correctly). The interval
    is Bonett and Price's adjusted Wald interval for paired proportions (2012), which Fagerland, Lydersen and Laake
    (2014) recommend: it counts one more image in each direction and two in all. It is an interval over images for
    these two models and does not include what another seed would give.

    Args:
        first_only, second_only: images that only the first, or only the second, classifies correctly.
        images: of the validation split.
        level: of the interval.
    """
    discordant = first_only + second_only
    p = stats.binomtest(first_only, discordant).pvalue if discordant else 1.0
    one, other = (first_only + 1) / (images + 2), (second_only + 1) / (images + 2)
    error = np.sqrt((one + other - (one - other) ** 2) / (images + 2))
    half = stats.norm.ppf((1 + level) / 2) * error
    low, high = max(-1.0, one - other - half), min(1.0, one - other + half)
    return Difference(100 * (first_only - second_only) / images, 100 * low, 100 * high, float(p))
