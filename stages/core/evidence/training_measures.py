"""How claims about trained students are measured: from the runs' accuracies and their differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from stages.core.base.names import BASELINE, LABELS_ONLY, setting_name
from stages.core.evidence.analysis_measures import BACKBONES
from stages.core.evidence.applied import FAILED, UNCHECKED, check
from stages.core.evidence.claims import Claim
from stages.core.evidence.differences import UNEQUAL
from stages.core.evidence.measured import Measured
from stages.core.evidence.questions import QUESTIONS, WEAK, questions_table
from stages.core.evidence.requirements import PaperStudent, unmet_requirement
from stages.core.evidence.results import Results, Run

CAUTION = "; variances differ between settings, which the interval does not allow for"


def _runs_that_count(
    claim: Claim, results: Results, strategy: str, objective: str, student: PaperStudent
) -> list[Run] | str:
    """The runs of one setting, one per seed, or the reason why they do not count."""
    found = [run for run in results.runs if (run["strategy"], run["objective"]) == (strategy, objective)]
    if not found:
        return f"no run of {strategy} with {objective}"
    reasons = (unmet_requirement(claim, "of_run", results, run, student) for run in found)
    return next(filter(None, reasons), None) or found


def _mean_top1(
    claim: Claim, results: Results, strategy: str, objective: str, student: PaperStudent, figure: str = "accuracy"
) -> Measured | str:
    """Mean top-1 of the last epoch over the seeds of one setting, or the reason why there is none that counts."""
    found = _runs_that_count(claim, results, strategy, objective, student)
    if isinstance(found, str):
        return found
    place = f"{results.folder}/comparison.csv: {strategy}, {objective}: top1_mean"
    return Measured(sum(run["top1"] for run in found) / len(found), place, figure)


def _paper_student(claim: Claim, strategy: str) -> PaperStudent:
    """The paper's student of a strategy: Lift and WideLast are as wide as its teacher."""
    teacher = next(
        row["D"] for row in claim.paper[BACKBONES].values() if row["timm"] == claim.paper["headline"]["teacher"]
    )
    return PaperStudent(strategy, teacher)


def _setting(claim: Claim) -> tuple[str, str]:
    """Strategy and objective that a claim is about."""
    strategy, objective = claim.options.get("setting") or (claim.entry["strategy"], claim.entry["objective"])
    return strategy, objective


def runs_of_the_paper(claim: Claim, results: Results) -> list[Run] | str:
    """The runs of the setting that a claim is about, if all its requirements are met; else the reason why not."""
    strategy, objective = _setting(claim)
    unmet = unmet_requirement(claim, "of_results", results)
    return unmet or _runs_that_count(claim, results, strategy, objective, _paper_student(claim, strategy))


def run_top1(claim: Claim, results: Results) -> Measured | str:
    """Mean top-1 of the last epoch over the seeds of the setting that a claim is about."""
    strategy, objective = _setting(claim)
    return _mean_top1(claim, results, strategy, objective, _paper_student(claim, strategy))


def best_epoch_top1(claim: Claim, results: Results) -> Measured | str:
    """Mean over seeds of the best epoch's top-1."""
    (strategy, objective), found = _setting(claim), runs_of_the_paper(claim, results)
    if isinstance(found, str):
        return found
    if any(run.get("top1_best") is None for run in found):
        return f"{strategy} with {objective}: its top1_best is not recorded"
    place = f"{results.folder}/runs.csv: {strategy}, {objective}: top1_best"
    return Measured(sum(run["top1_best"] for run in found) / len(found), place, "curves")


def epoch_top1(claim: Claim, results: Results) -> Measured | str:
    """Mean over seeds of top-1 after the number of epochs that the last part of the claim's path gives."""
    (strategy, objective), found = _setting(claim), runs_of_the_paper(claim, results)
    if isinstance(found, str):
        return found
    epoch = int(claim.path[-1]) - 1  # curves.csv counts from 0
    of_epoch = [
        row["top1"]
        for row in results.curves
        if (row["strategy"], row["objective"], row["epoch"]) == (strategy, objective, epoch)
    ]
    if len(of_epoch) != len(found):
        return f"{strategy} with {objective}: {results.folder}/curves.csv does not hold epoch {epoch} of every run"
    place = f"{results.folder}/curves.csv: {strategy}, {objective}, epoch {epoch}: top1"
    return Measured(sum(of_epoch) / len(of_epoch), place, "published_curve")


def best_top1(claim: Claim, results: Results) -> Measured | str:
    """The plain student's top-1; of another strategy the largest mean of a setting, if all published ones were run."""
    strategy = claim.path[-1]
    student = _paper_student(claim, strategy)
    if strategy == BASELINE:
        return _mean_top1(claim, results, strategy, LABELS_ONLY, student)
    objectives = [row["objective"] for row in claim.paper["top1"] if row["strategy"] == strategy]
    found = [_mean_top1(claim, results, strategy, objective, student) for objective in objectives]
    means = [one for one in found if isinstance(one, Measured)]
    if len(means) < len(found):
        reason = next(one for one in found if isinstance(one, str))
        return f"{len(means)} of {len(found)} published settings of {strategy} were trained as published: {reason}"
    return max(means, key=lambda one: one.value)


def _lift_of_width(results: Results, width: int) -> str | None:
    """The strategy whose Lift students project to a width and were trained on labels alone."""
    return min((run["strategy"] for run in _lifts(results) if run["width"] == width), default=None)


def _lifts(results: Results) -> list[Mapping[str, Any]]:
    wanted = (results.cost.get("lift", {}).get("architecture"), LABELS_ONLY)
    return [run for run in results.runs if (run["architecture"], run["objective"]) == wanted]


def lift_width_top1(claim: Claim, results: Results) -> Measured | str:
    """Mean top-1 of Lift to the width that ends the claim's path, trained on labels alone."""
    # Lift to the student's own width is published as the baseline's figure.
    width = int(claim.path[-1])
    strategy = _lift_of_width(results, width)
    if strategy is None:
        return f"no Lift to {width} channels on labels alone"
    drawn = {run["width"] for run in results.runs if run["strategy"].startswith("lift")}  # as in the figure `width`
    figure = "width" if len(drawn) > 1 else "accuracy"
    return _mean_top1(claim, results, strategy, LABELS_ONLY, PaperStudent("lift", width), figure)


def _difference(claim: Claim, results: Results, first: Sequence[str], second: Sequence[str]) -> Measured | str:
    """Top-1 of one setting minus another's, in points, with its adjusted interval.

    A registered question of the same pair has the interval, where its seeds give one; else differences.csv has it.
    """
    if not results.runs:
        return "no student was trained"
    names = [setting_name(*setting) for setting in (first, second)]
    asked = _question(claim, results, names)
    if asked is not None:
        return asked
    if not results.differences:
        return f"{results.folder}/differences.csv is missing"
    for row in results.differences:
        pair = [
            setting_name(row["strategy"], row["objective"]),
            setting_name(row["against_strategy"], row["against_objective"]),
        ]
        sign = 1 if pair == names else -1 if pair == names[::-1] else 0
        if sign:
            low, high = sorted(sign * row[end] for end in ("low", "high"))
            place = f"{results.folder}/differences.csv: {' minus '.join(pair)}"
            caution = CAUTION if row.get("equal_variances_p", 1) < UNEQUAL else ""
            return Measured(
                sign * row["difference"],
                place,
                "differences",
                (low, high),
                caution=caution,
                withheld=_weak(claim, results, [first, second]),
            )
    return f"no comparison of {' with '.join(names)}"


def _question(claim: Claim, results: Results, names: list[str]) -> Measured | None:
    """What a registered question of two settings found; None where there is none, or its seeds give no interval."""
    runs, register = pd.DataFrame(results.runs), claim.paper[QUESTIONS]
    if not {"seed", "top1"} <= set(runs) or runs["seed"].nunique() < 2:
        return None
    contrast = " − ".join(names)
    row = next((one for one in questions_table(runs, register).to_dict("records") if one["contrast"] == contrast), None)
    if row is None or pd.isna(row["low"]):
        return None
    return Measured(
        row["difference"],
        f"{results.folder}/runs.csv: {contrast}",
        None,
        (row["low"], row["high"]),
        withheld=_withheld(str(row["check"]), str(row["moved"])),
    )


def _weak(claim: Claim, results: Results, settings: Sequence[Sequence[str]]) -> str:
    """Why nothing can be said of the settings' feature losses; empty where their checks pass, or none has one."""
    runs, register = pd.DataFrame(results.runs), claim.paper[QUESTIONS]
    if "feature" not in runs:
        return ""
    pairs = [(strategy, objective) for strategy, objective in settings]
    return _withheld(*check(runs, pairs, register.checks, register.passes_at))


def _withheld(checked: str, moved: str) -> str:
    return {FAILED: f"{WEAK}: {moved}", UNCHECKED: f"{UNCHECKED}: {moved}"}.get(checked, "")


def top1_difference(claim: Claim, results: Results) -> Measured | str:
    """Top-1 of the claim's first setting minus that of its second."""
    first, second = claim.options["first"], claim.options["second"]
    reasons = [_no_such_student(claim, results, strategy) for strategy, _ in (first, second)]
    reasons += [
        _not_as_published(claim, results, strategy, objective, _paper_student(claim, strategy))
        for strategy, objective in (first, second)
    ]
    return next(filter(None, reasons), None) or _difference(claim, results, first, second)


def _not_as_published(
    claim: Claim, results: Results, strategy: str, objective: str, student: PaperStudent
) -> str | None:
    """The reason why the runs of a setting are not the paper's, where the claim requires that they are."""
    if "training" not in claim.requires:
        return None
    found = _runs_that_count(claim, results, strategy, objective, student)
    return found if isinstance(found, str) else None


def _no_such_student(claim: Claim, results: Results, strategy: str) -> str | None:
    """The reason why the runs of a strategy are not of the paper's student of that name, at whatever scale."""
    architecture = results.cost[strategy]["architecture"]
    for run in results.runs:
        if run["strategy"] != strategy:
            continue
        if run["architecture"] != architecture:
            return f"{strategy} is {run['architecture']}, the paper's is {architecture}"
        if strategy != BASELINE and run["width"] != run["teacher_width"]:
            return f"{strategy} is {run['width']} wide, the paper's is as wide as its teacher, {run['teacher_width']}"
    return None


def wider_than_teacher(claim: Claim, results: Results) -> Measured | str:
    """Top-1 of the widest Lift minus that of Lift to the teacher's width, both trained on labels alone."""
    teacher = max((run["teacher_width"] for run in results.runs), default=0)
    widest = max((run["width"] for run in _lifts(results)), default=0)
    found = {width: _lift_of_width(results, width) for width in (widest, teacher)}
    first, second = found[widest], found[teacher]
    if first is None or second is None or widest <= teacher:
        return f"no Lift to {teacher if second is None else f'more than {teacher}'} channels on labels alone"
    reasons = (
        _not_as_published(claim, results, strategy, LABELS_ONLY, PaperStudent("lift", width))
        for width, strategy in ((widest, first), (teacher, second))
    )
    return next(filter(None, reasons), None) or _difference(claim, results, (first, LABELS_ONLY), (second, LABELS_ONLY))
