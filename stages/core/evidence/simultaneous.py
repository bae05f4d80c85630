"""Critical values of intervals that hold together, for estimates that share one pooled residual variance.

An interval is estimate ± critical value × standard error.
"""

from functools import lru_cache

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95  # of all intervals of a family together
POINTS = 2**14  # of quasi-random normal vectors: critical values within about 0.1 %


@lru_cache
def tukey(settings: int, freedom: int) -> float:
    """For the differences of all pairs of settings: quantile of the studentised range over √2.

    Exact where all differences have the same standard error. Otherwise (Tukey and Kramer) the intervals are wider than
    they need to be: Hayter (1984) proves it for settings with unequal numbers of independent runs, Hayter (1989) for
    some further structures of covariance; for incomplete blocks simulation holds it here.
    """
    return float(stats.studentized_range.ppf(LEVEL, settings, freedom) / np.sqrt(2))


def dunnett(correlation: np.ndarray, freedom: int) -> float:
    """For the differences of all settings from one control: quantile of max |t| (Dunnett 1955).

    The probability P(max |t| ≤ c) is the mean over normal vectors z of P(s ≥ max |z| / c), where s is the residual
    standard deviation over the true one; z are scrambled Sobol points of a fixed seed, so that the value is the same
    each time.

    Args:
        correlation: of the differences, [differences, differences].
        freedom: residual degrees of freedom.
    """
    if len(correlation) == 1:
        return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    normal = stats.qmc.MultivariateNormalQMC(np.zeros(len(correlation)), correlation, rng=0).random(POINTS)
    largest = np.abs(normal).max(axis=1)

    def missing(critical: float) -> float:
        return float(stats.chi2.sf(freedom * (largest / critical) ** 2, freedom).mean()) - LEVEL

    # No more than Bonferroni's value, no less than that of one comparison.
    least, most = (stats.t.isf((1 - LEVEL) / 2 / count, freedom) for count in (1, len(correlation)))
    return float(optimize.brentq(missing, 0.99 * least, 1.01 * most))
