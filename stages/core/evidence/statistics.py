"""Differences between settings with intervals that hold together, and whether they show anything.

Bonferroni: of m intervals each has the level 1 − 0.05 / m, so that all of them at once cover their true differences
with at least 95 %. (Holm's procedure adjusts tests, and gives no intervals that belong to it.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from stages.core.base.errors import UserError
from stages.core.base.names import BASELINE, LABELS_ONLY, setting_name

LEVEL = 0.95  # of all intervals together
HIGHER, LOWER, NOT_SHOWN = "higher", "lower", "no difference shown"
PAIRED_T, MCNEMAR = "paired t", "McNemar"
PLAIN = (BASELINE, LABELS_ONLY)  # the plain student

DIFFERENCE_COLUMNS = (
    "strategy",
    "objective",
    "against_strategy",
    "against_objective",
    "difference",
    "low",
    "high",
    "p",
    "level",
    "comparisons",
    "seeds",
    "method",
    "verdict",
)

Setting = tuple[str, str]  # strategy, objective


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


def bonferroni(comparisons: int) -> float:
    """The level of each of some intervals that together hold at `LEVEL`."""
    return 1 - (1 - LEVEL) / comparisons


def paired_t(differences: Sequence[float] | np.ndarray, level: float) -> Difference:
    """The mean of paired differences, one a seed, by Student's t.

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
    mean, error = values.mean(), stats.sem(values)
    if error <= 1e-9 * max(1.0, abs(mean)):
        return Difference(float(mean), np.nan, np.nan, np.nan)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, len(values) - 1)
    return Difference(float(mean), float(mean - half), float(mean + half), float(p))


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


def family(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """The comparisons that are made, each a pair of settings, the first minus the second.

    Every two strategies under one objective (the later minus the earlier); every objective minus `none` under one
    strategy; every other setting minus the plain student, baseline with `none`.
    """
    strategies, objectives = (list(dict.fromkeys(values)) for values in zip(*settings, strict=True))
    strategies.sort(key=lambda name: name != PLAIN[0])  # the baseline is what others are compared with
    pairs = [((b, one), (a, one)) for one in objectives for a, b in combinations(strategies, 2)]
    pairs += [((one, objective), (one, LABELS_ONLY)) for one in strategies for objective in objectives]
    pairs += [(setting, PLAIN) for setting in settings]
    there = set(settings)
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and there.issuperset(pair)]


def differences_table(runs: pd.DataFrame, correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Top-1 differences of `family` in percentage points, each at the level of `bonferroni` for the whole family.

    Several seeds: paired over seeds, t. One seed: paired over the validation images, McNemar.

    Args:
        runs: runs.csv.
        correct: for each run, which validation images it classifies correctly, [images] of booleans.

    Raises:
        UserError: two settings have different seeds, or two runs different images.
    """
    groups = {
        (str(strategy), str(objective)): rows.sort_values("seed")
        for (strategy, objective), rows in runs.groupby(["strategy", "objective"], sort=False)
    }
    pairs = family(list(groups))
    level = bonferroni(max(1, len(pairs)))
    table = []
    for first, second in pairs:
        one, other = groups[first], groups[second]
        named = f"{setting_name(*first)} and {setting_name(*second)}"
        if list(one["seed"]) != list(other["seed"]):
            raise UserError(f"{named} were trained with different seeds; run `dvc repro train`")
        if len(one) > 1:
            method = PAIRED_T
            found = paired_t(one["top1"].to_numpy() - other["top1"].to_numpy(), level)
        else:
            method = MCNEMAR
            a, b = (correct[str(rows["run"].iloc[0])] for rows in (one, other))
            if len(a) != len(b):
                raise UserError(f"{named} were validated on different images; run `dvc repro train`")
            found = mcnemar(int((a & ~b).sum()), int((b & ~a).sum()), len(a), level)
        table.append(
            {
                "strategy": first[0],
                "objective": first[1],
                "against_strategy": second[0],
                "against_objective": second[1],
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "level": level,
                "comparisons": len(pairs),
                "seeds": len(one),
                "method": method,
                "verdict": found.verdict,
            }
        )
    return pd.DataFrame(table, columns=list(DIFFERENCE_COLUMNS))


def summary_sentence(differences: pd.DataFrame) -> str:
    """A sentence that says what the differences show, judged by their intervals alone.

    Args:
        differences: as `differences_table` makes it.
    """
    if differences.empty:
        return "One setting was trained, and there is nothing to compare it with."
    counts = differences["verdict"].value_counts()
    shown, without = len(differences) - counts.get(NOT_SHOWN, 0), int(differences["low"].isna().sum())
    holding = counts.get(NOT_SHOWN, 0) - without
    seeds, method = differences[["seeds", "method"]].iloc[0]
    how = (
        f"paired t over {seeds} seeds" if method == PAIRED_T else "one run a setting, paired over the validation images"
    )
    text = (
        f"Of {len(differences)} differences in top-1, {shown or 'none'} {'are' if shown > 1 else 'is'} shown "
        f"({counts.get(HIGHER, 0)} {HIGHER}, {counts.get(LOWER, 0)} {LOWER}); for {holding} the interval holds zero: "
        f"{NOT_SHOWN}{f'; for {without} there is no interval: the seeds differ alike' if without else ''} "
        f"({how}; {100 * LEVEL:g} % intervals, adjusted for {len(differences)} comparisons)."
    )
    if method == PAIRED_T and seeds == 2:
        text += " Two seeds leave one degree of freedom, and intervals so wide that they can show next to nothing."
    return text
