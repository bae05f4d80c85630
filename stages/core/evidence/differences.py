"""Differences in top-1 between settings: which are compared, with intervals that hold together, and a summary.

Settings × seeds is a randomised block design (`blocks`): one residual variance is pooled over all settings. Two
families of intervals come from it, each of which holds as a whole at `LEVEL`: Dunnett's for the differences of all
settings from the plain student, Tukey's for all pairs of settings, of which the table gives those that answer a
question. Where one seed was run, models are compared over the validation images (McNemar, Bonferroni).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stages.core.base.errors import UserError
from stages.core.base.names import BASELINE, LABELS_ONLY, plural, setting_name
from stages.core.evidence.blocks import Blocks
from stages.core.evidence.questions import Setting
from stages.core.evidence.simultaneous import LEVEL, dunnett, tukey
from stages.core.evidence.statistics import (
    HIGHER,
    LOWER,
    NOT_SHOWN,
    Difference,
    bonferroni,
    mcnemar,
    paired_t,
    pooled_t,
    without_interval,
)

TUKEY, DUNNETT, MCNEMAR, NO_INTERVAL = "Tukey", "Dunnett", "McNemar", "none"
PLAIN = (BASELINE, LABELS_ONLY)  # the plain student
UNEQUAL = 0.05  # a p below this is a warning that variances differ between settings

DIFFERENCE_COLUMNS = (
    *("strategy", "objective", "against_strategy", "against_objective"),
    *("difference", "low", "high", "p", "level", "comparisons", "seeds", "method", "verdict"),
    *("residual_sd", "freedom", "strategy_sd", "against_sd", "equal_variances_p"),
    *("paired_difference", "paired_low", "paired_high", "paired_p"),
)


def family(settings: Sequence[Setting], asked: Sequence[tuple[Setting, Setting]] = ()) -> list[tuple[Setting, Setting]]:
    """The comparisons that are made, each a pair of settings, the first minus the second.

    Every two strategies under one objective (the later minus the earlier); every objective minus `none` under one
    strategy; every other setting minus the plain student, baseline with `none`; the pairs that are `asked`.
    """
    strategies, objectives = (list(dict.fromkeys(values)) for values in zip(*settings, strict=True))
    strategies.sort(key=lambda name: name != PLAIN[0])  # the baseline is what others are compared with
    pairs = [((b, one), (a, one)) for one in objectives for a, b in combinations(strategies, 2)]
    pairs += [((one, objective), (one, LABELS_ONLY)) for one in strategies for objective in objectives]
    pairs += [(setting, PLAIN) for setting in settings]
    pairs += asked
    there = set(settings)
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and there.issuperset(pair)]


def differences_table(
    runs: pd.DataFrame, correct: Mapping[str, np.ndarray], asked: Sequence[tuple[Setting, Setting]] = ()
) -> pd.DataFrame:
    """Top-1 differences of `family` in percentage points, with intervals that hold together, as `of_pairs` makes them.

    Args:
        runs: runs.csv.
        correct: for each run, which validation images it classifies correctly, [images] of booleans.
        asked: further pairs of settings.
    """
    settings = list(dict.fromkeys(_settings(runs)))
    return of_pairs(family(settings, asked) if settings else [], runs, correct)


def of_pairs(
    pairs: Sequence[tuple[Setting, Setting]], runs: pd.DataFrame, correct: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Top-1 differences of some pairs in percentage points, with intervals that hold together.

    Several seeds: by the pooled variance of `Blocks`, Dunnett's where the plain student is subtracted and Tukey's
    elsewhere, with the paired t of the two settings alone beside it (Bonferroni over the rows). No degree of freedom:
    McNemar's over the validation images where both settings have one run, else no interval.

    Args:
        pairs: of settings, the first minus the second.
        runs: runs.csv.
        correct: for each run, which validation images it classifies correctly, [images] of booleans.

    Raises:
        UserError: two runs that are compared on images were validated on different ones.
    """
    names = _settings(runs)
    groups = {one: runs[[name == one for name in names]].set_index("seed") for one in dict.fromkeys(names)}
    blocks = Blocks(names, list(runs["seed"]))
    rows = _over_seeds(pairs, blocks, runs["top1"].to_numpy(dtype=float)) if blocks.freedom else None
    table = []
    for place, (first, second) in enumerate(pairs):
        one, other = groups[first], groups[second]
        common = one["top1"].sub(other["top1"]).dropna().to_numpy(dtype=float)  # aligned by seed
        paired = (
            paired_t(common, bonferroni(len(pairs)))
            if len(common) > 1
            else without_interval(common[0] if len(common) else np.nan)
        )
        table.append(
            {
                **dict(zip(DIFFERENCE_COLUMNS, (*first, *second), strict=False)),
                "seeds": len(common),
                **(rows[place] if rows else _over_images(one, other, correct, len(pairs))),
                **{f"paired_{key}": getattr(paired, key) for key in ("difference", "low", "high", "p")},
            }
        )
    return pd.DataFrame(table, columns=list(DIFFERENCE_COLUMNS))


def _settings(runs: pd.DataFrame) -> list[Setting]:
    """The setting of each run."""
    return list(zip(runs["strategy"].astype(str), runs["objective"].astype(str), strict=True))


def _over_seeds(pairs: Sequence[tuple[Setting, Setting]], blocks: Blocks, top1: np.ndarray) -> list[dict[str, Any]]:
    """The columns that the pooled variance gives, one mapping a pair."""
    place = {setting: index for index, setting in enumerate(blocks.settings)}
    effects, spread = blocks.effects(top1), float(np.sqrt(blocks.variance(top1)))
    own, p = np.sqrt(blocks.setting_variances(top1)), blocks.equal_variances_p(top1)
    count = len(place)
    families = {TUKEY: (tukey(count, blocks.freedom), count * (count - 1) // 2)}
    if PLAIN in place:
        control = place[PLAIN]
        others = [index for index in place.values() if index != control and blocks.error(index, control) > 0]
        if others:
            families[DUNNETT] = (dunnett(blocks.correlation(others, control), blocks.freedom), len(others))
    rows = []
    for first, second in pairs:
        one, other = place[first], place[second]
        error = blocks.error(one, other)
        method = NO_INTERVAL if np.isnan(error) else DUNNETT if second == PLAIN else TUKEY
        critical, comparisons = families.get(method, (np.nan, len(pairs)))
        difference = round(float(effects[one] - effects[other]), 9) + 0.0  # what rounding leaves of zero is zero
        found = pooled_t(difference, error * spread, blocks.freedom, critical)
        rows.append(
            {
                **_interval(found, method, comparisons),
                "level": 2 * stats.t.cdf(critical, blocks.freedom) - 1,
                "residual_sd": spread,
                "freedom": blocks.freedom,
                "strategy_sd": own[one],
                "against_sd": own[other],
                "equal_variances_p": p,
            }
        )
    return rows


def _over_images(
    one: pd.DataFrame, other: pd.DataFrame, correct: Mapping[str, np.ndarray], comparisons: int
) -> dict[str, Any]:
    """The columns of two settings where no variance over seeds is known: McNemar's, where each has one run."""
    level = bonferroni(comparisons)
    if len(one) > 1 or len(other) > 1:
        found, method = without_interval(one["top1"].mean() - other["top1"].mean()), NO_INTERVAL
    else:
        names = [str(rows["run"].iloc[0]) for rows in (one, other)]
        a, b = (correct[name] for name in names)
        if len(a) != len(b):
            raise UserError(f"{' and '.join(names)} were validated on different images; run `dvc repro train`")
        found, method = mcnemar(int((a & ~b).sum()), int((b & ~a).sum()), len(a), level), MCNEMAR
    return {**_interval(found, method, comparisons), "level": level, "seeds": 1, "freedom": 0}


def _interval(found: Difference, method: str, comparisons: int) -> dict[str, Any]:
    columns = {key: getattr(found, key) for key in ("difference", "low", "high", "p", "verdict")}
    return {**columns, "method": method, "comparisons": comparisons}


def summary_sentence(differences: pd.DataFrame) -> str:
    """What the differences show, judged by their intervals alone, with what the intervals rest on.

    Args:
        differences: as `differences_table` makes it, or differences.csv.
    """
    if differences.empty:
        return "One setting was trained, and there is nothing to compare it with."
    counts, without = differences["verdict"].value_counts(), int(differences["low"].isna().sum())
    higher, lower = (int(counts.get(verdict, 0)) for verdict in (HIGHER, LOWER))
    shown = higher + lower
    text = (
        f"Of {len(differences)} differences in top-1, {shown or 'none'} {'are' if shown > 1 else 'is'} shown "
        f"({higher} {HIGHER}, {lower} {LOWER}); for {len(differences) - shown - without} the interval holds zero: "
        f"{NOT_SHOWN}"
    )
    if without:
        unknown = (differences["method"] == NO_INTERVAL).any()
        text += f"; for {without} there is no interval: "
        text += "too few seeds in common" if unknown else "the seeds differ alike"
    return f"{text} ({_basis(differences)}).{variance_warning(differences)}"


def _basis(differences: pd.DataFrame) -> str:
    """What the intervals rest on."""
    level = f"{100 * LEVEL:g} % intervals"
    freedom = int(differences["freedom"].iloc[0])
    if not freedom:
        images = (differences["method"] == MCNEMAR).any()
        how = "one run a setting, paired over the validation images" if images else "no degree of freedom"
        return f"{how}; {level}, adjusted for {len(differences)} comparisons"
    least, most = differences["seeds"].min(), differences["seeds"].max()
    seeds = str(most) if least == most else f"{least} to {most}"
    families = [
        f"{name}'s for {words.format(int(rows['comparisons'].iloc[0]))}"
        for name, words in ((DUNNETT, "the {} from " + setting_name(*PLAIN)), (TUKEY, "all {} pairs"))
        if len(rows := differences[differences["method"] == name])
    ]
    return (
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} as blocks, residual standard deviation "
        f"{differences['residual_sd'].iloc[0]:.2f} points on {plural(freedom, 'degree')} of "
        f"freedom; {level}: {', '.join(families) or 'none'}"
    )


def variance_warning(differences: pd.DataFrame) -> str:
    """A sentence where variances clearly differ between settings, which the pooled variance denies; else empty."""
    p = differences["equal_variances_p"].iloc[0] if len(differences) else np.nan
    if not p < UNEQUAL:
        return ""
    ends = (("strategy", "objective", "strategy_sd"), ("against_strategy", "against_objective", "against_sd"))
    spreads = {(row[a], row[b]): row[sd] for row in differences.to_dict("records") for a, b, sd in ends}
    widest = max(spreads, key=lambda setting: np.nan_to_num(spreads[setting]))
    return (
        f" Warning: variances clearly differ between settings (p = {p:.2g}; {setting_name(*widest)} spreads most, "
        f"{spreads[widest]:.2f} points). Intervals of settings that spread more than most are too narrow: read the "
        "paired t beside them."
    )
