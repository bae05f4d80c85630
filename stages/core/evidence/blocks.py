"""Settings × seeds as a randomised block design: seeds are blocks, which every setting of a run shares.

The model is y = mean + setting + seed + error, with independent errors of one normal distribution. A seed decides the
order of the images and their augmentation for all settings, so that good and bad luck of a seed is common to them and
drops out of differences between settings. Not every setting needs every seed: the fit is by least squares, which for
complete blocks is the two-way analysis of variance without replication (Fisher 1935; incomplete blocks: Yates 1936).
"""

from collections.abc import Hashable, Sequence

import numpy as np

TINY = 1e-9  # of what rounding leaves of zero
SIMULATIONS = 9_999  # of the test of equal variances


class Blocks:
    """The design of a set of runs, and what its least-squares fit says of their values.

    Attributes:
        settings: each distinct setting once, in order of appearance; results are in this order.
        freedom: residual degrees of freedom; (settings − 1) · (seeds − 1) where every setting has every seed.
        covariance: of the settings' effects in units of the residual variance, [settings, settings]; it has a meaning
            for differences of effects only.
    """

    def __init__(self, settings: Sequence[Hashable], seeds: Sequence[Hashable]) -> None:
        """Args:
        settings, seeds: of each run; no pair of them twice.

        Raises:
            ValueError: two runs have the same setting and seed.
        """
        if len(set(zip(settings, seeds, strict=True))) < len(settings):
            raise ValueError("two runs have the same setting and seed")
        self.settings = list(dict.fromkeys(settings))
        blocks = list(dict.fromkeys(seeds))
        self._of = np.array([[setting == one for one in self.settings] for setting in settings], dtype=float)
        in_block = np.array([[seed == one for one in blocks] for seed in seeds], dtype=float)
        design = np.hstack([self._of, in_block])  # [runs, settings + seeds]
        inverse = np.linalg.pinv(design)
        count = len(self.settings)
        self._effects = inverse[:count]
        self._estimable = inverse @ design  # projects on the combinations of parameters that the runs determine
        self._residual = np.eye(len(design)) - design @ inverse
        self.covariance = (inverse @ inverse.T)[:count, :count]
        self.freedom = len(design) - int(np.linalg.matrix_rank(design))

    def effects(self, values: np.ndarray) -> np.ndarray:
        """Effects of the settings, [..., settings], of values [..., runs]; only their differences have a meaning."""
        return np.asarray(values @ self._effects.T)

    def variance(self, values: np.ndarray) -> np.ndarray:
        """The residual variance pooled over all settings, [...], of values [..., runs].

        It is exactly zero where nothing but rounding is left, and not a number without degrees of freedom.
        """
        if not self.freedom:
            return np.full(values.shape[:-1], np.nan)
        squares = ((values @ self._residual) ** 2).sum(-1)
        rounding = TINY * np.maximum(1, np.abs(values).max(-1))
        return np.where(squares <= values.shape[-1] * rounding**2, 0.0, squares / self.freedom)

    def error(self, first: int, second: int) -> float:
        """The standard error of effect `first` − effect `second`, in residual standard deviations.

        Not a number where the runs do not determine the difference: no seed, and no chain of settings that share
        seeds, connects the two.
        """
        contrast = np.zeros(len(self._estimable))
        contrast[first], contrast[second] = 1, -1
        if np.abs(self._estimable @ contrast - contrast).max() > TINY:
            return np.nan
        return float(np.sqrt(contrast[: len(self.settings)] @ self.covariance @ contrast[: len(self.settings)]))

    def correlation(self, others: Sequence[int], control: int) -> np.ndarray:
        """Correlations of the differences of some settings from a control, [others, others]."""
        contrasts = np.eye(len(self.settings))[list(others)] - np.eye(len(self.settings))[control]
        covariance = contrasts @ self.covariance @ contrasts.T
        errors = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(errors, errors))

    def setting_variances(self, values: np.ndarray) -> np.ndarray:
        """The residual variance of each setting alone, [..., settings]; not a number where its runs leave none."""
        freedom = np.diag(self._residual) @ self._of
        squares = (values @ self._residual) ** 2 @ self._of
        return np.where(freedom > TINY, squares / np.where(freedom > TINY, freedom, 1), np.nan)

    def equal_variances_p(self, values: np.ndarray) -> float:
        """The p of a test that all settings have the same residual variance; not a number where none can be made.

        Tests of the literature need variances within groups, which residuals of two or three seeds do not give. Here
        the statistic is the dispersion of the settings' variances, Σ f v² / (Σ f v)² with f the degrees of freedom of
        each, and its distribution under equal variances is simulated for the very same design.

        Args:
            values: [runs].
        """
        freedom = np.diag(self._residual) @ self._of
        if (freedom > TINY).sum() < 3 or not self.variance(values):
            return np.nan  # of two settings in blocks both have the same residuals

        def dispersion(of: np.ndarray) -> np.ndarray:
            variances = np.nan_to_num(self.setting_variances(of))
            return np.asarray((variances**2 @ freedom) / (variances @ freedom) ** 2)

        simulated = dispersion(np.random.default_rng(0).normal(size=(SIMULATIONS, len(values))))
        return float((1 + (simulated >= (1 - TINY) * dispersion(values)).sum()) / (1 + SIMULATIONS))
