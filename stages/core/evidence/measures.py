"""How each kind of published claim is measured: small functions from a claim and a run's results to a value.

A measure returns a value, with its interval where it has one and the file and key that hold it, or the reason in words
why there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.base.names import BASELINE, LABELS_ONLY, TEACHER, setting_name
from stages.core.evidence.claims import Claim
from stages.core.evidence.differences import UNEQUAL
from stages.core.evidence.requirements import PaperStudent, unmet_requirement
from stages.core.evidence.results import Results, Run

BACKBONES = "svd_and_pca_dims"  # the family of paper.yaml whose rows name the backbones' timm models
IMAGE_SIZE = 224  # of rows without img_size
LEVEL = "95"  # percent of the energy, in the paper's wording
UNIFORM = "uniform"  # the strategy that spreads the parameters of WideLast over all blocks
CAUTION = "; variances differ between settings, which the interval does not allow for"


@dataclass(frozen=True)
class Measured:
    """A value and where it is recorded.

    Attributes:
        value: the measured value.
        metric: file and place of the value.
        figure: the figure that shows it.
        interval: its adjusted confidence interval, where it has one.
        missing: what the claim covers but was not measured: then the value can contradict it, but not confirm it.
        caution: what to know of the interval, as words that follow it.
    """

    value: float
    metric: str
    figure: str | None = None
    interval: tuple[float, float] | None = None
    missing: str = ""
    caution: str = ""


def _analysed(
    claim: Claim, results: Results, analysis: str, timm: str, img_size: int
) -> tuple[str, Mapping[str, Any]] | str:
    """The key under which an analysis holds the published model, and its metrics; or the reason why none counts."""
    named = {
        key: measured for key, measured in results.analyses[analysis].items() if timm in (key, measured["architecture"])
    }
    if not named:
        return f"{timm} was not analysed"
    pretrained = [(key, measured) for key, measured in named.items() if measured["weights"] == "pretrained"]
    if not pretrained:
        return f"{timm}: weights are {next(iter(named.values()))['weights']}, the claim is about pretrained ones"
    size = pretrained[0][1]["input_size"][-1]
    if size != img_size:
        return f"{timm} was analysed at {size} pixels, the claim is about {img_size}"
    return unmet_requirement(claim, "of_backbone", pretrained[0][1]) or pretrained[0]


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


def _run_top1(claim: Claim, results: Results) -> Measured | str:
    strategy, objective = _setting(claim)
    return _mean_top1(claim, results, strategy, objective, _paper_student(claim, strategy))


def _best_epoch_top1(claim: Claim, results: Results) -> Measured | str:
    """Mean over seeds of the best epoch's top-1."""
    (strategy, objective), found = _setting(claim), runs_of_the_paper(claim, results)
    if isinstance(found, str):
        return found
    if any(run.get("top1_best") is None for run in found):
        return f"{strategy} with {objective}: its top1_best is not recorded"
    place = f"{results.folder}/runs.csv: {strategy}, {objective}: top1_best"
    return Measured(sum(run["top1_best"] for run in found) / len(found), place, "curves")


def _epoch_top1(claim: Claim, results: Results) -> Measured | str:
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


def _best_top1(claim: Claim, results: Results) -> Measured | str:
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
    architecture = results.cost["lift"]["architecture"]
    return [run for run in results.runs if (run["architecture"], run["objective"]) == (architecture, LABELS_ONLY)]


def _lift_width_top1(claim: Claim, results: Results) -> Measured | str:
    # Lift to the student's own width is published as the baseline's figure.
    width = int(claim.path[-1])
    strategy = _lift_of_width(results, width)
    if strategy is None:
        return f"no Lift to {width} channels on labels alone"
    drawn = {run["width"] for run in results.runs if run["strategy"].startswith("lift")}  # as in the figure `width`
    figure = "width" if len(drawn) > 1 else "accuracy"
    return _mean_top1(claim, results, strategy, LABELS_ONLY, PaperStudent("lift", width), figure)


def _cost(claim: Claim, results: Results, key: str) -> Measured:
    strategy = claim.path[0]
    return Measured(results.cost[strategy][key], f"{results.folder}/cost.json: {strategy}.{key}")


def _flops_increase(claim: Claim, results: Results) -> Measured:
    """FLOPs of a student over the baseline's, in percent of the baseline's."""
    strategy = claim.path[0]
    increase = results.cost[strategy]["flops"] / results.cost[BASELINE]["flops"] - 1
    return Measured(100 * increase, f"{results.folder}/cost.json: {strategy}.flops over {BASELINE}.flops")


def _published(claim: Claim, results: Results) -> Measured:
    file, _, key = claim.options["other"].partition(".")
    place = f"{file}.yaml: {key}" if file == "training_logs" else f"paper.yaml: {claim.options['other']}"
    return Measured(claim.options["value"], f"reports/reference/{place}")


def _over_backbones(
    claim: Claim, results: Results, analysis: str, value: Callable[[Mapping[str, Any]], float | str], place: str
) -> Measured | str:
    """The value of the teacher's backbone, or the largest of the `backbones` that the claim names."""
    if "backbones" in claim.options:
        rows = claim.options["backbones"].values()
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
    """Dims for 95 % of one image's energy, over the smaller of tokens and channels: the most that are possible."""
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
    if not results.runs:
        return "no student was trained"
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
            caution = CAUTION if row.get("equal_variances_p", 1) < UNEQUAL else ""
            return Measured(sign * row["difference"], place, "differences", (low, high), caution=caution)
    return f"no comparison of {' with '.join(names)}"


def _top1_difference(claim: Claim, results: Results) -> Measured | str:
    first, second = claim.options["first"], claim.options["second"]
    reasons = (_no_such_student(claim, results, strategy) for strategy, _ in (first, second))
    return next(filter(None, reasons), None) or _difference(results, first, second)


def _no_such_student(claim: Claim, results: Results, strategy: str) -> str | None:
    """The reason why the runs of a strategy are not of the paper's student of that name, at whatever scale.

    A student that the paper does not have is a control, and has its teacher's width, but for `uniform`: it has as many
    parameters as WideLast, in blocks of one width.
    """
    of_paper = strategy in claim.paper["cost"]
    architecture = results.cost[strategy]["architecture"] if of_paper else None
    for run in results.runs:
        if run["strategy"] != strategy:
            continue
        if architecture is not None and run["architecture"] != architecture:
            return f"{strategy} is {run['architecture']}, the paper's is {architecture}"
        if strategy not in (BASELINE, UNIFORM) and run["width"] != run["teacher_width"]:
            meant = "the paper's" if of_paper else "the claim's"
            return f"{strategy} is {run['width']} wide, {meant} is as wide as its teacher, {run['teacher_width']}"
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
    "best_epoch_top1": _best_epoch_top1,
    "epoch_top1": _epoch_top1,
    "best_top1": _best_top1,
    "lift_width_top1": _lift_width_top1,
    "student_parameters": lambda claim, results: _cost(claim, results, "parameters"),
    "student_flops": lambda claim, results: _cost(claim, results, "flops"),
    "flops_increase": _flops_increase,
    "published": _published,
    "rank_share": _rank_share,
    "shared_share": _shared_share,
    "sep_distance": _sep_distance,
    "top1_difference": _top1_difference,
    "wider_than_teacher": _wider_than_teacher,
}
