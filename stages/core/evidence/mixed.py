"""Contrasts between settings where what a strategy and a seed have in common is a random effect.

Settings of one strategy and seed start from the same weights. Top-1 is mean + setting + seed + (strategy × seed) +
error, the last two random: a split-plot design with seeds as blocks, strategies on whole plots and objectives on split
plots. A contrast within strategies, and so a difference of such differences, is free of the strategies' own luck and is
known by the error alone; one between strategies is not.

Variances come from two mean squares (Henderson's method 3, which for equal numbers is the analysis of variance): what
is left within strategy × seed, and what setting and seed leave beyond it. The variance of a contrast is a sum of both,
with degrees of freedom by Satterthwaite (1946).
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

TINY = 1e-9  # of what rounding leaves of zero
RANK = 1e-9  # singular values below this share of the largest are zero: designs of indicators are of deficient rank


class Contrast(NamedTuple):
    """A contrast's estimate, its standard error, and the degrees of freedom of that; not numbers where unknown."""

    estimate: float
    error: float
    freedom: float


class Mixed:
    """The design of a set of runs, and the contrasts that it determines.

    Attributes:
        values: of the runs.
        settings: strategy and objective of each setting once, in order of appearance.
        within_freedom, between_freedom: degrees of freedom of `within` and `between`.
    """

    def __init__(self, settings: Sequence[tuple[str, str]], seeds: Sequence[Hashable], values: Sequence[float]) -> None:
        """Args:
        settings, seeds, values: strategy and objective, seed, and top-1 of each run; no setting and seed twice.
        """
        self.values = np.asarray(values, dtype=float)
        self.settings = list(dict.fromkeys(settings))
        plots = [(strategy, seed) for (strategy, _), seed in zip(settings, seeds, strict=True)]
        of_setting, of_seed, self._of_plot = (_indicators(of) for of in (settings, seeds, plots))
        design, finer = np.hstack([of_setting, of_seed]), np.hstack([of_setting, self._of_plot])
        self._inverse = np.linalg.pinv(design, RANK)
        self._estimable = self._inverse @ design
        self._left, self._inside = (np.eye(len(of)) - of @ np.linalg.pinv(of, RANK) for of in (design, finer))
        freedom, self.within_freedom = (round(float(np.trace(of))) for of in (self._left, self._inside))
        self.between_freedom = freedom - self.within_freedom
        # The expectation of `between` is the error's variance + `_share` times that of strategy × seed.
        self._share = float(np.trace(self._of_plot.T @ self._left @ self._of_plot)) / max(1, self.between_freedom)

    @property
    def within(self) -> float:
        """The mean square within strategy × seed; not a number without degrees of freedom."""
        return _mean(self._squares(self._inside), self.within_freedom)

    @property
    def between(self) -> float:
        """The mean square of strategy × seed; not a number without degrees of freedom."""
        return _mean(self._squares(self._left) - self._squares(self._inside), self.between_freedom)

    def _squares(self, residual: np.ndarray) -> float:
        return float(((residual @ self.values) ** 2).sum())

    def contrast(self, weights: Mapping[tuple[str, str], float]) -> Contrast:
        """The contrast with a weight for each of some settings.

        It has no estimate where the runs do not determine it, no error without degrees of freedom.
        """
        coefficients = np.zeros(len(self._estimable))
        for setting, weight in weights.items():
            coefficients[self.settings.index(setting)] = weight
        if np.abs(self._estimable @ coefficients - coefficients).max() > TINY:
            return Contrast(np.nan, np.nan, np.nan)
        by_run = coefficients @ self._inverse
        estimate = round(float(by_run @ self.values), 9) + 0.0  # what rounding leaves of zero is zero
        of_error, of_plots = float((by_run**2).sum()), float(((by_run @ self._of_plot) ** 2).sum())
        return Contrast(estimate, *self._error(of_error, of_plots))

    def _error(self, of_error: float, of_plots: float) -> tuple[float, float]:
        """Standard error and degrees of freedom, from the coefficients of the two variances."""
        if not self.within_freedom:  # one objective a strategy: both variances in one, which is all that is needed
            return _root(of_error * self.between), float(self.between_freedom or np.nan)
        share = of_plots / self._share if of_plots > TINY and self.between_freedom else 0.0
        if of_plots > TINY and not self.between_freedom:
            return np.nan, np.nan
        if share == 0 or self.between <= self.within:  # no luck of strategies enters, or none is seen
            return _root(of_error * self.within), float(self.within_freedom)
        parts = ((of_error - share) * self.within, share * self.between)
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / self.within_freedom + parts[1] ** 2 / self.between_freedom)
        return _root(sum(parts)), freedom


def _indicators(of: Sequence[Hashable]) -> np.ndarray:
    """[runs, distinct values]: 1 where a run has that value."""
    return np.array([[one == other for other in dict.fromkeys(of)] for one in of], dtype=float)


def _mean(squares: float, freedom: int) -> float:
    """A mean square; what rounding leaves of zero is zero."""
    return float(np.nan) if not freedom else squares / freedom if squares > TINY else 0.0


def _root(variance: float) -> float:
    """A standard error; not a number where the runs do not differ and the variance is unknown."""
    return float(np.sqrt(variance)) if variance > 0 else float(np.nan)
