"""Registered questions, this project's and the paper's, each a contrast of top-1 between settings, judged.

A question is a difference in top-1 between two settings, or a difference of two such differences, with the sign that
was expected before the runs. It is judged by `mixed`, where strategy × seed is a random effect. All intervals are one
family: Bonferroni's t over all questions that have one. Tukey's and Scheffé's values are for one common number of
degrees of freedom and for contrasts that nobody registered; the registered ones are few, their degrees of freedom
differ, and Bonferroni's intervals hold whatever their dependence. Where a setting has a feature loss, nothing is said
unless its manipulation check passes (`applied`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.evidence import applied
from stages.core.evidence.mixed import Contrast, Mixed
from stages.core.evidence.statistics import bonferroni, paired_t, pooled_t, without_interval

FILE = "questions.yaml"  # of reports/reference
QUESTIONS = "questions"  # the register among the reference data that every claim carries
Setting = tuple[str, str]  # strategy, objective
NOT_RUN, UNJUDGED, WEAK, UNCHECKED = (
    "not run",
    "cannot be judged",
    "not applied strongly enough to say",
    "not checked",
)
SHOWN, CONTRARY, NOT_SHOWN = "as expected", "contrary to what was expected", "no difference shown"
QUESTION_COLUMNS = (
    *("question", "about", "asked_by", "asks", "contrast", "expected", "since", "registered"),
    *("difference", "low", "high", "p", "error", "freedom", "level", "comparisons"),
    *("paired_difference", "paired_low", "paired_high", "paired_p"),
    *("seeds", "planned_seeds", "check", "moved", "unread", "verdict", "reason"),
)
_NUMBERS = QUESTION_COLUMNS[8:20]


@dataclass(frozen=True)
class Question:
    """A registered contrast.

    Attributes:
        name: of the question.
        about: what it separates: width, reading, target, …
        asked_by: "paper" or "project".
        asks: the question in words.
        pairs: one difference, or two of which the second is subtracted; each is a pair of settings.
        expected: the sign that was expected, "+" or "-".
        checks: the manipulation checks, of `applied.KINDS`, that the feature losses of its settings must pass.
        since: the commit that brought it.
        registered: the day of that commit, as ISO 8601 writes it.
    """

    name: str
    about: str
    asked_by: str
    asks: str
    pairs: tuple[tuple[Setting, Setting], ...]
    expected: str
    checks: tuple[str, ...]
    since: str
    registered: str

    @property
    def weights(self) -> dict[Setting, float]:
        """The weight of each setting in the contrast."""
        weights: Counter[Setting] = Counter()
        for sign, (first, second) in zip((1, -1), self.pairs, strict=False):
            weights.update({first: sign})
            weights.update({second: -sign})
        return {setting: float(weight) for setting, weight in weights.items() if weight}

    @property
    def contrast(self) -> str:
        """The contrast as a formula: `widen-none − baseline-none`, or the difference of two such in brackets."""
        parts = [" − ".join("-".join(setting) for setting in pair) for pair in self.pairs]
        return parts[0] if len(parts) == 1 else f"[{parts[0]}] − [{parts[1]}]"


@dataclass(frozen=True)
class Questions:
    """What reports/reference/questions.yaml holds.

    Attributes:
        passes_at: the percent of the way at which a manipulation check passes.
        teacher_top1: of a teacher below it, every sentence says so.
        seeds: how many were planned for each setting.
        checks: the manipulation checks of a loss of which no question says others.
        looks: by study, the numbers of seeds at which its results were looked at, the last one included.
        questions: in the order in which they are asked.
    """

    passes_at: float
    teacher_top1: float
    seeds: int
    checks: tuple[str, ...]
    looks: Mapping[str, Sequence[int]]
    questions: tuple[Question, ...]


def read_questions(folder: Path) -> Questions:
    """The register of questions in reports/reference.

    Raises:
        UserError: it is missing, or an entry is not a question.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it with `git restore {path}`")
    content = read_yaml(path)
    try:
        questions = tuple(_question(content, one) for one in content["questions"])
        numbers = {key: content[key] for key in ("passes_at", "teacher_top1", "seeds")}
        register = Questions(
            **numbers, checks=tuple(content["checks"]), looks=content.get("looks", {}), questions=questions
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error} is missing or not what its first lines explain") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    twice = [name for name, count in Counter(one.name for one in questions).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two questions are called {twice[0]}")
    return register


def _question(content: Mapping[str, Any], one: Mapping[str, Any]) -> Question:
    pairs = tuple(tuple(_setting(one["name"], setting) for setting in pair) for pair in one["pairs"])
    checks = tuple(one.get("checks", content["checks"]))
    if len(pairs) not in (1, 2) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{one['name']}: pairs must be one pair of settings, or two")
    if one["expected"] not in ("+", "-"):
        raise ValueError(f"{one['name']}: expected must be + or -, in quotes")
    unknown = [name for name in checks if name not in applied.KINDS]
    if unknown:
        raise ValueError(f"{one['name']}: unknown check {unknown[0]}; must be one of {', '.join(applied.KINDS)}")
    return Question(
        one["name"],
        one["about"],
        one.get("asked_by", "project"),
        one["asks"],
        pairs,  # type: ignore[arg-type]
        one["expected"],
        checks,
        *(str(one.get(key, content[key])) for key in ("since", "registered")),
    )


def _setting(name: str, setting: str) -> Setting:
    strategy, separator, objective = str(setting).partition("-")
    if not (strategy and separator and objective):
        raise ValueError(f"{name}: {setting} is no setting; write STRATEGY-OBJECTIVE")
    return strategy, objective


def questions_table(runs: pd.DataFrame, register: Questions) -> pd.DataFrame:
    """Every registered question with its contrast, interval, manipulation check and verdict, run or not.

    Args:
        runs: runs.csv, with `applied.APPLIED_COLUMNS` where they were measured. `reads_matched_tokens`, where it is
            there, says of each run whether its head reads the tokens that a feature loss matches.
        register: the questions.
    """
    settings = list(zip(runs["strategy"].astype(str), runs["objective"].astype(str), strict=True))
    model = Mixed(settings, list(runs["seed"]), list(runs["top1"])) if settings else None
    found = {
        one.name: model.contrast(one.weights)
        for one in register.questions
        if model is not None and set(one.weights) <= set(model.settings)
    }
    comparisons = sum(not math.isnan(contrast.error) for contrast in found.values())
    rows = [_row(one, found.get(one.name), runs, register, comparisons) for one in register.questions]
    table = pd.DataFrame(rows, columns=list(QUESTION_COLUMNS))
    return table.astype({**dict.fromkeys(_NUMBERS, float), **dict.fromkeys(("seeds", "planned_seeds"), int)})


def _row(
    question: Question, found: Contrast | None, runs: pd.DataFrame, register: Questions, comparisons: int
) -> dict[str, Any]:
    asked = {
        "question": question.name,
        **{key: getattr(question, key) for key in QUESTION_COLUMNS[1:8]},
        "planned_seeds": register.seeds,
    }
    seeds = _by_seed(question, runs)
    asked["seeds"] = len(seeds)
    if found is None:
        there = set(zip(runs["strategy"], runs["objective"], strict=True))
        missing = ", ".join("-".join(setting) for setting in question.weights if setting not in there)
        return {**asked, "verdict": NOT_RUN, "reason": f"no run of {missing}"}
    level = bonferroni(max(1, comparisons))
    estimate = (
        without_interval(found.estimate)
        if math.isnan(found.error)
        else pooled_t(found.estimate, found.error, found.freedom, stats.t.isf((1 - level) / 2, found.freedom))  # type: ignore[arg-type]
    )
    paired = paired_t(seeds, level) if len(seeds) > 1 else without_interval(seeds[0] if len(seeds) else np.nan)
    check, moved = applied.check(runs, question.weights, question.checks, register.passes_at)
    row = {
        **asked,
        **{key: getattr(estimate, key) for key in ("difference", "low", "high", "p")},
        **{f"paired_{key}": getattr(paired, key) for key in ("difference", "low", "high", "p")},
        "error": found.error,
        "freedom": found.freedom,
        "level": level,
        "comparisons": comparisons,
        "check": check,
        "moved": moved,
        "unread": ", ".join(_unread(question, runs)),
    }
    if math.isnan(found.estimate):
        return {**row, "verdict": UNJUDGED, "reason": "no seed connects its settings"}
    if math.isnan(found.error):
        why = "one seed" if runs["seed"].nunique() == 1 else "too few seeds"
        return {**row, "verdict": UNJUDGED, "reason": f"{why}: how far seeds differ is unknown"}
    if check in (applied.FAILED, applied.UNCHECKED):
        return {**row, "verdict": WEAK if check == applied.FAILED else UNCHECKED, "reason": moved}
    sign = 1 if estimate.low > 0 else -1 if estimate.high < 0 else 0
    verdict = NOT_SHOWN if not sign else SHOWN if (sign > 0) == (question.expected == "+") else CONTRARY
    return {**row, "verdict": verdict, "reason": ""}


def _by_seed(question: Question, runs: pd.DataFrame) -> np.ndarray:
    """The contrast of each seed that all of its settings have."""
    total: Any = 0
    for (strategy, objective), weight in question.weights.items():
        of = runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)]
        total = total + weight * of.set_index("seed")["top1"].astype(float)
    return np.asarray(total.dropna(), dtype=float)


def _unread(question: Question, runs: pd.DataFrame) -> list[str]:
    """The strategies with a feature loss whose head does not read the matched tokens, as far as the runs say."""
    if not {"reads_matched_tokens", "feature"} <= set(runs):
        return []
    chosen = [setting in question.weights for setting in zip(runs["strategy"], runs["objective"], strict=True)]
    of = runs[chosen]
    unread = of["feature"].notna() & (of["reads_matched_tokens"].astype(str).str.lower() == "false")
    return list(dict.fromkeys(of[unread]["strategy"]))
