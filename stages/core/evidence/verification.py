"""Recomputing the tables of a recorded study from its predictions, and comparing them with what was recorded.

A study of an earlier version has no predictions: its tables are then recomputed from the accuracies of its runs, as far
as they say, and what it lacks is named. A table may have columns that later code names otherwise, or does not make any
more; those that both have are compared.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence import predictions, scales, studies
from stages.core.evidence.analysis_tables import backbones_table
from stages.core.evidence.blocks import Blocks
from stages.core.evidence.comparison import comparison_table, nested_means
from stages.core.evidence.differences import of_pairs
from stages.core.evidence.questions import Questions, questions_table
from stages.core.evidence.results import read_results
from stages.core.evidence.studies import Study

DIGITS = 6  # that a number has in a table
SETTING, OTHER = ["strategy", "objective"], ["against_strategy", "against_objective"]
JUDGED = (
    *("difference", "low", "high", "p", "error", "freedom", "level", "comparisons", "seeds"),
    *("paired_difference", "paired_low", "paired_high", "paired_p"),
)
EARLIER = "an earlier version recorded it"


@dataclass
class Verified:
    """What was found of a study of which nothing differs.

    Attributes:
        equal: what was recomputed, and is as recorded.
        lacking: what could not be recomputed, with the reason.
    """

    equal: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def verify(study: Study, register: Questions) -> Verified:
    """Recompute what a study's predictions and tables determine, and compare it with what was recorded.

    Raises:
        UserError: something differs; the text names the first file and cell.
    """
    found = Verified()
    _check_files(study, found)
    answers = _predictions(study, found)
    if study.has_students:
        results = read_results(study.results, study.data)
        runs = _with_exact_top1(study, pd.DataFrame(results.runs), answers)
        _check_runs(study, runs, answers, found)
        _check_questions(study, runs, register, found)
    _check_backbones(study, found)
    _check_audit(study, found)
    return found


def _check_files(study: Study, found: Verified) -> None:
    """Compare the digest of every file with the recorded one.

    Raises:
        UserError: a file was altered, added or removed.
    """
    recorded = study.record.get("files")
    if recorded is None:
        found.lacking.append(f"digests of its files ({EARLIER})")
        return
    there = studies.digests(study.folder)
    for name in sorted({*recorded, *there}):
        path = study.folder / name
        mend = f"restore it with `git restore {path}`"
        if name not in there:
            raise UserError(f"{path} is missing; {mend}")
        if name not in recorded:
            raise UserError(f"{path} was not there when {study.name} was recorded; remove it")
        if there[name] != recorded[name]:
            raise UserError(f"{path} is not as it was recorded (SHA-256 {there[name][:12]}…); {mend}")
    found.equal.append(f"{len(there)} files by SHA-256")


def _predictions(study: Study, found: Verified) -> predictions.Predictions | None:
    path = study.folder / predictions.FILE
    if path.is_file():
        return predictions.read(path, study.data)
    if study.has_students:
        found.lacking.append(f"top-1 from predictions ({EARLIER} without)")
    return None


def _with_exact_top1(study: Study, runs: pd.DataFrame, answers: predictions.Predictions | None) -> pd.DataFrame:
    """The runs with top-1 as a share of counted images, which a table has in six digits.

    Raises:
        UserError: the predictions are of other runs, or a run's top-1 is no count of images, or another.
    """
    path, images = study.results / "runs.csv", read_json(study.data)["val"]["images"]
    counted = 100 * (runs["top1"].astype(float) * images / 100).round() / images
    exact = pd.Series(counted.to_numpy(), index=runs["run"])
    if answers is not None:
        if set(answers.classes) != set(runs["run"]):
            file = study.folder / predictions.FILE
            raise UserError(f"{file} and {path} are of different runs; take both from one study")
        exact = pd.Series(answers.top1).reindex(runs["run"])
    for run, recorded, top1 in zip(runs["run"], runs["top1"], exact, strict=True):
        if not _same(recorded, top1):
            whence = f"no count of {images:,} images is it" if answers is None else f"its predictions give {top1:.6g}"
            raise UserError(f"{path}: top1 of {run} is {recorded:.6g}, and {whence}")
    return runs.assign(top1=exact.to_numpy())


def _check_runs(study: Study, runs: pd.DataFrame, answers: predictions.Predictions | None, found: Verified) -> None:
    """Compare runs.csv, comparison.csv, differences.csv and the headline numbers with what the runs give."""
    if answers is not None:
        found.equal.append(f"top-1 of {len(runs)} runs from predictions on {len(answers.labels):,} images")
    recorded = read_json(study.folder / "metrics.json")["top1"]
    for strategy, means in nested_means(runs, "top1", 2).items():
        for objective, mean in means.items():
            if not _same(recorded.get(strategy, {}).get(objective), mean):
                raise UserError(f"{study.folder / 'metrics.json'}: top-1 of {strategy}-{objective} is not {mean:g}")
    encoding = _table(study.results / "encoding.csv")
    table = comparison_table(runs, encoding)
    others = [column for column in map(str, table) if not column.startswith("top1")]
    _compare(study, "comparison.csv", table, SETTING, found, rounded=others)
    file = "differences.csv"
    rows = _table(study.results / file)
    settings = list(zip(runs["strategy"], runs["objective"], strict=True))
    if answers is None and not Blocks(settings, list(runs["seed"])).freedom:
        found.lacking.append(f"{file} (one seed: differences are over the images, and need predictions)")
        return
    pairs = [((row[0], row[1]), (row[2], row[3])) for row in rows[SETTING + OTHER].itertuples(index=False, name=None)]
    _compare(study, file, of_pairs(pairs, runs, answers.correct if answers else {}), SETTING + OTHER, found)


def _check_questions(study: Study, runs: pd.DataFrame, register: Questions, found: Verified) -> None:
    """Compare the intervals of questions.csv with those of the register's questions that it has."""
    path = study.results / "questions.csv"
    if not path.is_file():
        found.lacking.append(f"questions.csv ({EARLIER} without)")
        return
    recorded = dict(_table(path)[["question", "contrast"]].itertuples(index=False, name=None))
    asked = tuple(one for one in register.questions if recorded.get(one.name) == one.contrast)
    if len(asked) < len(recorded):  # the number of intervals decides how wide they are
        changed = sorted(recorded.keys() - {one.name for one in asked})
        found.lacking.append(f"questions.csv (the register asks otherwise today: {', '.join(changed)})")
        return
    table = questions_table(runs, replace(register, questions=asked))
    _compare(study, path.name, table, ["question"], found, JUDGED)


def _check_backbones(study: Study, found: Verified) -> None:
    """Compare backbones.csv with the analyses that it was made of."""
    parts = {name: study.results / f"{name}.json" for name in ("svd", "pca", "sep")}
    try:
        table = backbones_table({name: read_json(path) for name, path in parts.items()})
    except (UserError, KeyError):
        found.lacking.append(f"backbones.csv ({EARLIER})")
        return
    _compare(study, "backbones.csv", table, ["backbone"], found)


def _check_audit(study: Study, found: Verified) -> None:
    """Count the verdicts of audit.json again."""
    path = study.folder / "audit.json"
    audit = read_json(path)
    apart = [name for name in ("controls",) if name in audit]  # earlier versions counted this family apart
    for name in ("counts", *apart):
        claims = [one for one in audit["claims"] if (one["family"] in apart) == (name in apart)]
        scaled = scales.PAPER in audit[name]
        counted: Mapping[str, Any] = scales.counts(claims) if scaled else Counter(one["verdict"] for one in claims)
        if counted != audit[name]:
            raise UserError(f"{path}: {name} are not those of its claims")
    found.equal.append(f"counts of {len(audit['claims'])} verdicts")


def _table(path: Path) -> pd.DataFrame:
    """A table, whose objective `none` is text; an empty cell is a missing value.

    Raises:
        UserError: it is missing.
    """
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it with `git restore {path}`") from None


def _compare(
    study: Study,
    name: str,
    computed: pd.DataFrame,
    keys: Sequence[str],
    found: Verified,
    columns: Sequence[str] | None = None,
    rounded: Sequence[str] = (),
) -> None:
    """Compare a recorded table with a computed one, row by row by its keys, in the columns that both have.

    Args:
        study: that has the table.
        name: of its file.
        computed: the same anew.
        keys: the columns that name a row.
        found: what is equal is added to it.
        columns: to compare; by default all.
        rounded: those that come from cells of another table, and are as far off as their digits allow.

    Raises:
        UserError: a row or a cell differs.
    """
    path = study.results / name
    recorded = _table(path)
    before, after = (table.set_index(list(keys)) for table in (recorded, computed))
    if set(before.index) != set(after.index) or not before.index.is_unique:
        raise UserError(f"{path} has other rows than its runs and analyses give")
    both = [column for column in columns or before.columns if column in before and column in after]
    for column in both:
        mean = before.get(column.replace("_std", "_mean")) if column in rounded else None
        slack = 1e-9 if mean is None else 10 ** (1 - DIGITS) * float(mean.abs().max())
        for key, cell, anew in zip(before.index, before[column], after[column].reindex(before.index), strict=True):
            if not _same(cell, anew, slack):
                row = "-".join(key) if isinstance(key, tuple) else key
                raise UserError(f"{path}: {column} of {row} is {cell}, and recomputed {anew}")
    others = [column for column in columns or before.columns if column not in both]
    found.equal.append(name)
    if others:
        found.lacking.append(f"{', '.join(others)} of {name} ({EARLIER})")


def _same(recorded: Any, computed: Any, slack: float = 1e-9) -> bool:
    """Whether a cell holds a value, as far as its digits say, or else within `slack`."""
    empty = [value is None or value == "" or value != value for value in (recorded, computed)]
    if any(empty):
        return all(empty)
    if isinstance(computed, str):
        return str(recorded) == computed
    try:
        return math.isclose(float(recorded), float(np.asarray(computed)), rel_tol=10 ** (1 - DIGITS), abs_tol=slack)
    except (TypeError, ValueError):
        return False
