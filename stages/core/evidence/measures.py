"""How each kind of published claim is measured: small functions from a claim and a run's results to a value.

A measure gives a value, with its interval where it has one and with the place where it stands, or says in words why
there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.base.names import BASELINE, LABELS_ONLY, TEACHER, setting_name
from stages.core.evidence.claims import Claim
from stages.core.evidence.requirements import Student, unmet
from stages.core.evidence.results import Results

BACKBONES = "svd_and_pca_dims"  # the family of paper.yaml whose rows name the backbones' timm models
IMAGE_SIZE = 224  # where a row says nothing else
LEVEL = "95"  # percent of the energy that the paper's words are about


@dataclass(frozen=True)
class Measured:
    """A value and where it stands.

    Attributes:
        value: the measured value.
        metric: file and place of the value.
        figure: the figure that shows it.
        interval: its adjusted confidence interval, where it has one.
        missing: what was not measured although the claim speaks of it: the value can contradict, not confirm.
    """

    value: float
    metric: str
    figure: str | None = None
    interval: tuple[float, float] | None = None
    missing: str = ""


def _analysed(
    claim: Claim, results: Results, analysis: str, timm: str, img_size: int
) -> tuple[str, Mapping[str, Any]] | str:
    """What an analysis calls the published model, and measured of it; or why there is nothing that counts."""
    named = {
        key: measured for key, measured in results.analyses[analysis].items() if timm in (key, measured["architecture"])
    }
    if not named:
        return f"{timm} was not analysed"
    pretrained = [(key, measured) for key, measured in named.items() if measured["weights"] == "pretrained"]
    if not pretrained:
        return f"{timm}: weights are {next(iter(named.values()))['weights']}, the claim is of pretrained ones"
    size = pretrained[0][1]["input_size"][-1]
    if size != img_size:
        return f"{timm} was analysed at {size} pixels, the claim is of {img_size}"
    return unmet(claim, "of_backbone", pretrained[0][1]) or pretrained[0]


def _dims(claim: Claim, results: Results, analysis: str, timm: str, img_size: int, level: str) -> Measured | str:
    found = _analysed(claim, results, analysis, timm, img_size)
    if isinstance(found, str):
        return found
    backbone, of = found
    key = "dims" if analysis == "sep" else "dims_p99"
    if level not in of[key]:
        return _no_threshold(level)
    figure = f"{backbone}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}"
    return Measured(of[key][level], f"{results.folder}/{analysis}.json: {backbone}.{key}.{level}", figure)


def _no_threshold(level: str) -> str:
    return f"no threshold of {level} %"


def _analysis_dims(claim: Claim, results: Results) -> Measured | str:
    size = claim.backbone.get("img_size", IMAGE_SIZE)
    return _dims(claim, results, claim.id.split("/", 1)[0], claim.backbone["timm"], size, claim.path[-1])


def _headline_dims(claim: Claim, results: Results) -> Measured | str:
    level = str(round(100 * float(claim.path[-1])))
    return _dims(claim, results, "svd", claim.entry["teacher"], IMAGE_SIZE, level)


def _mean_top1(
    claim: Claim, results: Results, strategy: str, objective: str, student: Student, figure: str = "accuracy"
) -> Measured | str:
    """Mean top-1 over the seeds of one setting, or why it has none that counts."""
    found = [run for run in results.runs if (run["strategy"], run["objective"]) == (strategy, objective)]
    if not found:
        return f"no run of {strategy} with {objective}"
    reasons = (unmet(claim, "of_run", results, run, student) for run in found)
    reason = next(filter(None, reasons), None)
    if reason:
        return reason
    place = f"{results.folder}/comparison.csv: {strategy}, {objective}: top1_mean"
    return Measured(sum(run["top1"] for run in found) / len(found), place, figure)


def _paper_student(claim: Claim, strategy: str) -> Student:
    """The paper's student of a strategy: Lift and WideLast are as wide as its teacher."""
    teacher = next(
        row["D"] for row in claim.paper[BACKBONES].values() if row["timm"] == claim.paper["headline"]["teacher"]
    )
    return Student(strategy, teacher)


def _run_top1(claim: Claim, results: Results) -> Measured | str:
    strategy = claim.entry["strategy"]
    return _mean_top1(claim, results, strategy, claim.entry["objective"], _paper_student(claim, strategy))


def _best_top1(claim: Claim, results: Results) -> Measured | str:
    """The plain student's top-1, or of another strategy the largest mean of a setting, once all published are there."""
    strategy = claim.path[-1]
    student = _paper_student(claim, strategy)
    if strategy == BASELINE:
        return _mean_top1(claim, results, strategy, LABELS_ONLY, student)
    objectives = [row["objective"] for row in claim.paper["top1"] if row["strategy"] == strategy]
    found = [_mean_top1(claim, results, strategy, objective, student) for objective in objectives]
    means = [one for one in found if isinstance(one, Measured)]
    if len(means) < len(found):
        reason = next(one for one in found if isinstance(one, str))
        return f"{len(means)} of {len(found)} published settings of {strategy} were trained so: {reason}"
    return max(means, key=lambda one: one.value)


def _lift_of_width(results: Results, width: int) -> str | None:
    """The Lift students that project to a width and were trained on labels alone: their strategy's name."""
    return min((run["strategy"] for run in _lifts(results) if run["width"] == width), default=None)


def _lifts(results: Results) -> list[Mapping[str, Any]]:
    architecture = results.cost["lift"]["architecture"]
    return [run for run in results.runs if (run["architecture"], run["objective"]) == (architecture, LABELS_ONLY)]


def _lift_width_top1(claim: Claim, results: Results) -> Measured | str:
    # Lift to the student's own width is published as the baseline's figure.
    width = int(claim.path[-1])
    strategy = _lift_of_width(results, width)
    if strategy is None:
        return f"no Lift to {width} channels on labels alone"
    drawn = {run["width"] for run in results.runs if run["strategy"].startswith("lift")}  # as the report's figure
    figure = "width" if len(drawn) > 1 else "accuracy"
    return _mean_top1(claim, results, strategy, LABELS_ONLY, Student("lift", width), figure)


def _cost(claim: Claim, results: Results, key: str) -> Measured:
    strategy = claim.path[0]
    return Measured(results.cost[strategy][key], f"{results.folder}/cost.json: {strategy}.{key}")


def _published(claim: Claim, results: Results) -> Measured:
    return Measured(claim.of["value"], f"reports/reference/paper.yaml: {claim.of['other']}")


def _over_backbones(
    claim: Claim, results: Results, analysis: str, value: Callable[[Mapping[str, Any]], float | str], place: str
) -> Measured | str:
    """The value of the teacher's backbone, or the largest of the `backbones` that the claim speaks of."""
    if "backbones" in claim.of:
        rows = claim.of["backbones"].values()
        found = [_analysed(claim, results, analysis, row["timm"], row.get("img_size", IMAGE_SIZE)) for row in rows]
        named = dict(one for one in found if not isinstance(one, str))
        missing = f"{len(named)} of {len(found)} backbones were analysed" if len(named) < len(found) else ""
    else:
        named = {key: of for key, of in results.analyses[analysis].items() if key == TEACHER}
        missing = ""
        if any(of["weights"] == "random" for of in named.values()):
            return "the teacher's weights are random"
    if not named:
        return missing or "the teacher was not analysed"
    values: dict[str, float] = {}
    for backbone, of in named.items():
        one = value(of)
        if isinstance(one, str):
            return one
        values[backbone] = one
    largest = max(values, key=values.__getitem__)
    figure = f"{largest}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}"
    return Measured(values[largest], f"{results.folder}/{analysis}.json: {largest}.{place}", figure, missing=missing)


def _rank_share(claim: Claim, results: Results) -> Measured | str:
    """Dims for 95 % of one image's energy over the most that are possible, the smaller of tokens and channels."""
    return _share_of_dims(claim, results, "svd", lambda of: min(of["tokens"], of["channels"]))


def _shared_share(claim: Claim, results: Results) -> Measured | str:
    """Dims of the shared basis for 95 % of the energy, over the channels."""
    return _share_of_dims(claim, results, "pca", lambda of: of["channels"])


def _share_of_dims(
    claim: Claim, results: Results, analysis: str, most: Callable[[Mapping[str, Any]], int]
) -> Measured | str:
    def share(of: Mapping[str, Any]) -> float | str:
        return of["dims_p99"][LEVEL] / most(of) if LEVEL in of["dims_p99"] else _no_threshold(LEVEL)

    return _over_backbones(claim, results, analysis, share, f"dims_p99.{LEVEL}")


def _sep_distance(claim: Claim, results: Results) -> Measured | str:
    """Largest |b(α) − α| over the thresholds α, full spectrum."""

    def distance(of: Mapping[str, Any]) -> float:
        return max(abs(reached - int(level) / 100) for level, reached in of["bandwidth"].items())

    return _over_backbones(claim, results, "sep", distance, "bandwidth")


def _difference(results: Results, first: Sequence[str], second: Sequence[str]) -> Measured | str:
    """Top-1 of one setting minus another's, in points, with its adjusted interval."""
    if not results.differences:
        return f"{results.folder}/differences.csv is missing"
    names = [setting_name(*setting) for setting in (first, second)]
    for row in results.differences:
        pair = [
            setting_name(row["strategy"], row["objective"]),
            setting_name(row["against_strategy"], row["against_objective"]),
        ]
        sign = 1 if pair == names else -1 if pair == names[::-1] else 0
        if sign:
            low, high = sorted(sign * row[end] for end in ("low", "high"))
            place = f"{results.folder}/differences.csv: {' minus '.join(pair)}"
            return Measured(sign * row["difference"], place, "differences", (low, high))
    return f"no comparison of {' with '.join(names)}"


def _top1_difference(claim: Claim, results: Results) -> Measured | str:
    first, second = claim.of["first"], claim.of["second"]
    reasons = (_no_such_student(results, strategy) for strategy, _ in (first, second))
    return next(filter(None, reasons), None) or _difference(results, first, second)


def _no_such_student(results: Results, strategy: str) -> str | None:
    """Why the runs of a strategy are not of the student that the paper calls so, at whatever scale."""
    architecture = results.cost[strategy]["architecture"]
    for run in results.runs:
        if run["strategy"] != strategy:
            continue
        if run["architecture"] != architecture:
            return f"{strategy} is {run['architecture']}, the paper's is {architecture}"
        if strategy != BASELINE and run["width"] != run["teacher_width"]:
            return f"{strategy} is {run['width']} wide, the paper's is as wide as its teacher, {run['teacher_width']}"
    return None


def _wider_than_teacher(claim: Claim, results: Results) -> Measured | str:
    teacher = results.runs[0]["teacher_width"]
    wider = [run["width"] for run in _lifts(results) if run["width"] > teacher]
    first, second = (_lift_of_width(results, width) for width in (max(wider, default=0), teacher))
    if first is None or second is None:
        return f"no Lift to {teacher if second is None else f'more than {teacher}'} channels on labels alone"
    return _difference(results, (first, LABELS_ONLY), (second, LABELS_ONLY))


MEASURES: dict[str, Callable[[Claim, Results], Measured | str]] = {
    "analysis_dims": _analysis_dims,
    "headline_dims": _headline_dims,
    "run_top1": _run_top1,
    "best_top1": _best_top1,
    "lift_width_top1": _lift_width_top1,
    "student_parameters": lambda claim, results: _cost(claim, results, "parameters"),
    "student_flops": lambda claim, results: _cost(claim, results, "flops"),
    "published": _published,
    "rank_share": _rank_share,
    "shared_share": _shared_share,
    "sep_distance": _sep_distance,
    "top1_difference": _top1_difference,
    "wider_than_teacher": _wider_than_teacher,
}
