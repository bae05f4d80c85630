"""How each kind of published claim is measured: small functions from a claim and a run's results to a value.

A measure gives a value, with its interval where it has one and with the place where it stands, or says in words why
there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BACKBONES = "svd_and_pca_dims"  # the family of paper.yaml whose rows name the backbones' timm models
IMAGE_SIZE = 224  # where a row says nothing else
TEACHER = "teacher"  # what the analyses call the teacher's backbone
SMALL = "digits"  # the embedded dataset: every student is near the ceiling


@dataclass(frozen=True)
class Claim:
    """One published figure, or one worded claim.

    Attributes:
        id: family and place, like "svd/CaiT-S24/svd/95".
        statement: what is claimed, with its unit.
        source: where it was published.
        figure: the published value; None for a worded claim.
        entry: the mapping of paper.yaml that holds it (a timm name, a strategy, …).
        backbone: for a figure of one backbone, its row in paper.yaml: timm name, width, input size; else empty.
        path: its keys from the family's root, one per * and name of the pattern.
        measure: a key of MEASURES.
        needs: keys of NEEDS, what a run must be for its value to count.
        tolerance: about the figure, {"absolute": …, "relative": …}; either is enough.
        bounds: of a worded claim, {"above", "at_least", "below", "at_most": …}.
        of: what the measure must know besides.
    """

    id: str
    statement: str
    source: str
    figure: float | None
    measure: str
    needs: tuple[str, ...]
    entry: Mapping[Any, Any] = field(default_factory=dict)
    backbone: Mapping[Any, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What a reproduction measured, as `summarize` wrote it.

    Attributes:
        dataset: the dataset's label.
        analyses: the contents of svd.json, pca.json and sep.json by "svd", "pca" and "sep".
        runs: one mapping per run.
        cost: parameters and FLOPs of the paper's students by strategy.
        teacher: the teacher's metrics.
        differences: one mapping per row of differences.csv.
        folder: where these results lie.
    """

    dataset: str
    analyses: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    cost: Mapping[str, Mapping[str, Any]]
    teacher: Mapping[str, Any]
    differences: Sequence[Mapping[str, Any]] = ()
    folder: str = "reports/results"


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


def _no_imagenet(results: Results) -> str | None:
    return None if results.dataset == "imagenet" else f"this run is of {results.dataset}, the claim is of ImageNet-1K"


def _no_study(results: Results) -> str | None:
    return f"this run is of {SMALL}, too small to judge by" if results.dataset == SMALL else None


def _no_pair(results: Results) -> str | None:
    plain = [run for run in results.runs if run["strategy"] == "baseline"]
    if not plain:
        return "no run of baseline"
    if plain[0].get("teacher_weights") == "random":
        return "the teacher's weights are random"
    if 2 * plain[0]["width"] > plain[0]["teacher_width"]:
        return f"the teacher is {plain[0]['teacher_width']} wide, less than twice the student's {plain[0]['width']}"
    return None


# What a run must be, in words, and the reason why one is not.
NEEDS: dict[str, tuple[str, Callable[[Results], str | None]]] = {
    "nothing": ("any run", lambda results: None),
    "imagenet": ("ImageNet-1K with published weights", _no_imagenet),
    "study": (f"any images but {SMALL}", _no_study),
    "pair": ("a trained teacher at least twice as wide as the student", _no_pair),
}


def _analysed(results: Results, analysis: str, timm: str, img_size: int) -> tuple[str, Mapping[str, Any]] | str:
    """What an analysis calls the published model, and measured of it; or why there is nothing."""
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
    return pretrained[0]


def _dims(results: Results, analysis: str, timm: str, img_size: int, level: str) -> Measured | str:
    found = _analysed(results, analysis, timm, img_size)
    if isinstance(found, str):
        return found
    backbone, of = found
    key = "dims" if analysis == "sep" else "dims_p99"
    if level not in of[key]:
        return f"no threshold of {level} %"
    figure = f"{backbone}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}"
    return Measured(of[key][level], f"{results.folder}/{analysis}.json: {backbone}.{key}.{level}", figure)


def _analysis_dims(claim: Claim, results: Results) -> Measured | str:
    size = claim.backbone.get("img_size", IMAGE_SIZE)
    return _dims(results, claim.id.split("/", 1)[0], claim.backbone["timm"], size, claim.path[-1])


def _headline_dims(claim: Claim, results: Results) -> Measured | str:
    return _dims(results, "svd", claim.entry["teacher"], IMAGE_SIZE, str(round(100 * float(claim.path[-1]))))


def _top1(results: Results, **wanted: Any) -> list[float] | str:
    """Top-1 of the runs in question, or why there is none that counts."""
    named = " with ".join(str(value) for value in wanted.values())
    found = [run for run in results.runs if all(run[key] == value for key, value in wanted.items())]
    if not found:
        return f"no run of {named}"
    if any(run["teacher_weights"] == "random" for run in found):
        return f"{named}: the teacher's weights are random"
    return [run["top1"] for run in found]


def _mean_top1(results: Results, strategy: str, objective: str, figure: str = "accuracy") -> Measured | str:
    found = _top1(results, strategy=strategy, objective=objective)
    if isinstance(found, str):
        return found
    place = f"{results.folder}/comparison.csv: {strategy}, {objective}: top1_mean"
    return Measured(sum(found) / len(found), place, figure)


def _run_top1(claim: Claim, results: Results) -> Measured | str:
    return _mean_top1(results, claim.entry["strategy"], claim.entry["objective"])


def _best_top1(claim: Claim, results: Results) -> Measured | str:
    found = _top1(results, strategy=claim.path[-1])
    if isinstance(found, str):
        return found
    return Measured(max(found), f"{results.folder}/runs.csv: {claim.path[-1]}: largest top1", "accuracy")


def _lift_of_width(results: Results, width: int) -> str | None:
    return min(
        (run["strategy"] for run in results.runs if run["width"] == width and run["strategy"].startswith("lift")),
        default=None,
    )


def _lift_width_top1(claim: Claim, results: Results) -> Measured | str:
    # Lift to the student's own width is published as the baseline's figure.
    width = int(claim.path[-1])
    strategy = _lift_of_width(results, width)
    if strategy is None:
        return f"no Lift to {width} channels"
    widths = {run["width"] for run in results.runs if run["strategy"].startswith("lift")}
    return _mean_top1(results, strategy, "none", "width" if len(widths) > 1 else "accuracy")


def _student(claim: Claim, results: Results, key: str) -> Measured:
    strategy = claim.path[0]
    return Measured(results.cost[strategy][key], f"{results.folder}/cost.json: {strategy}.{key}")


def _published(claim: Claim, results: Results) -> Measured:
    return Measured(claim.of["value"], f"reports/reference/paper.yaml: {claim.of['other']}")


def _over_backbones(
    claim: Claim, results: Results, analysis: str, value: Callable[[Mapping[str, Any]], float], place: str
) -> Measured | str:
    """The value of the teacher's backbone, or the largest of the `backbones` that the claim speaks of."""
    if "backbones" in claim.of:
        rows = claim.of["backbones"].values()
        found = [_analysed(results, analysis, row["timm"], row.get("img_size", IMAGE_SIZE)) for row in rows]
        named = dict(one for one in found if not isinstance(one, str))
        missing = f"{len(named)} of {len(found)} backbones were analysed" if len(named) < len(found) else ""
    else:
        named = {key: of for key, of in results.analyses[analysis].items() if key == TEACHER}
        missing = ""
        if any(of["weights"] == "random" for of in named.values()):
            return "the teacher's weights are random"
    if not named:
        return missing or "the teacher was not analysed"
    largest = max(named, key=lambda key: value(named[key]))
    figure = f"{largest}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}"
    metric = f"{results.folder}/{analysis}.json: {largest}.{place}"
    return Measured(value(named[largest]), metric, figure, missing=missing)


def _rank_share(claim: Claim, results: Results) -> Measured | str:
    """Dims for 95 % of one image's energy over the most that are possible, the smaller of tokens and channels."""
    return _over_backbones(
        claim, results, "svd", lambda of: of["dims_p99"]["95"] / min(of["tokens"], of["channels"]), "dims_p99.95"
    )


def _shared_share(claim: Claim, results: Results) -> Measured | str:
    """Dims of the shared basis for 95 % of the energy, over the channels."""
    return _over_backbones(claim, results, "pca", lambda of: of["dims_p99"]["95"] / of["channels"], "dims_p99.95")


def _sep_distance(claim: Claim, results: Results) -> Measured | str:
    """Largest |b(α) − α| over the thresholds α, full spectrum."""

    def distance(of: Mapping[str, Any]) -> float:
        return max(abs(reached - int(level) / 100) for level, reached in of["bandwidth"].items())

    return _over_backbones(claim, results, "sep", distance, "bandwidth")


def _difference(results: Results, first: Sequence[str], second: Sequence[str]) -> Measured | str:
    """Top-1 of one setting minus another's, in points, with its adjusted interval."""
    if not results.differences:
        return f"{results.folder}/differences.csv is missing"
    for row in results.differences:
        pair = [[row["strategy"], row["objective"]], [row["against_strategy"], row["against_objective"]]]
        sign = 1 if pair == [list(first), list(second)] else -1 if pair == [list(second), list(first)] else 0
        if sign:
            low, high = sorted(sign * row[end] for end in ("low", "high"))
            place = f"{results.folder}/differences.csv: {'-'.join(pair[0])} minus {'-'.join(pair[1])}"
            return Measured(sign * row["difference"], place, "differences", (low, high))
    return f"no comparison of {'-'.join(first)} with {'-'.join(second)}"


def _top1_difference(claim: Claim, results: Results) -> Measured | str:
    return _difference(results, claim.of["first"], claim.of["second"])


def _wider_than_teacher(claim: Claim, results: Results) -> Measured | str:
    teacher = results.runs[0]["teacher_width"]
    wider = [run["width"] for run in results.runs if run["strategy"].startswith("lift") and run["width"] > teacher]
    first, second = (_lift_of_width(results, width) for width in (max(wider, default=0), teacher))
    if first is None or second is None:
        return f"no Lift to {teacher if second is None else f'more than {teacher}'} channels"
    return _difference(results, [first, "none"], [second, "none"])


MEASURES: dict[str, Callable[[Claim, Results], Measured | str]] = {
    "analysis_dims": _analysis_dims,
    "headline_dims": _headline_dims,
    "run_top1": _run_top1,
    "best_top1": _best_top1,
    "lift_width_top1": _lift_width_top1,
    "student_parameters": lambda claim, results: _student(claim, results, "parameters"),
    "student_flops": lambda claim, results: _student(claim, results, "flops"),
    "published": _published,
    "rank_share": _rank_share,
    "shared_share": _shared_share,
    "sep_distance": _sep_distance,
    "top1_difference": _top1_difference,
    "wider_than_teacher": _wider_than_teacher,
}
