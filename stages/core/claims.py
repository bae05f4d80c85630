"""Published claims as data, and the verdict on each from what was measured.

A claim is `confirmed` or `contradicted` only by a measurement of the thing it speaks of; otherwise it is
`not measured`, with the reason. A measure is a small function from the results to a value.

Several runs may measure one claim. They are not averaged, and none outvotes another: the claim is contradicted if
any of them contradicts it, confirmed if at least one measured it and none contradicts it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.errors import UserError

BACKBONES = "svd_and_pca_dims"  # the family of paper.yaml whose rows name the backbones' timm models
IMAGE_SIZE = 224  # where a row says nothing else

CONFIRMED, CONTRADICTED, NOT_MEASURED = "confirmed", "contradicted", "not measured"


@dataclass(frozen=True)
class Claim:
    """One published figure.

    Attributes:
        id: family and place, like "svd/CaiT-S24/svd/95".
        statement: what the figure is of, with its unit.
        source: where it was published.
        figure: the published value.
        entry: the mapping of paper.yaml that holds it (a timm name, a strategy, …).
        backbone: for a figure of one backbone, its row in paper.yaml: timm name, width, input size; else empty.
        path: its keys from the family's root, one per * and name of the pattern.
        measure: a key of MEASURES.
        needs: "imagenet", or "nothing" for what any machine can measure.
        tolerance: {"absolute": …, "relative": …}; either is enough.
    """

    id: str
    statement: str
    source: str
    figure: float
    entry: Mapping[Any, Any]
    backbone: Mapping[Any, Any]
    path: tuple[str, ...]
    measure: str
    needs: str
    tolerance: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What a reproduction measured, as `summarize` wrote it.

    Attributes:
        dataset: the dataset's label.
        analyses: the contents of svd.json, pca.json and sep.json by "svd", "pca" and "sep".
        runs: one mapping per run.
        cost: parameters and FLOPs of the paper's students by strategy.
        teacher: the teacher's metrics.
    """

    dataset: str
    analyses: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    cost: Mapping[str, Mapping[str, Any]]
    teacher: Mapping[str, Any]


def expand(families: list[Mapping[str, Any]], paper: Mapping[str, Any]) -> list[Claim]:
    """The claims of every family, one per published figure that its pattern reaches.

    Raises:
        UserError: a pattern reaches no figure, or a family names an unknown measure.
    """
    claims: list[Claim] = []
    for family in families:
        if family["measure"] not in MEASURES:
            raise UserError(
                f"claims.yaml: {family['id']}: no measure {family['measure']}; there are {', '.join(MEASURES)}"
            )
        pattern = family["figures"].split(".")
        found = list(_reach(paper, pattern))
        if not found:
            raise UserError(f"claims.yaml: {family['id']}: {family['figures']} reaches nothing in paper.yaml")
        for entry, keys, figure in found:
            path = keys[1:]
            claims.append(
                Claim(
                    id="/".join([family["id"], *_identity(entry, path)]),
                    statement=family["statement"].format(*path, **{str(key): value for key, value in entry.items()}),
                    source=family["source"],
                    figure=figure,
                    entry=entry,
                    backbone=paper.get(BACKBONES, {}).get(path[0], {}),
                    path=path,
                    **{key: family[key] for key in ("measure", "needs", "tolerance")},
                )
            )
    return claims


def _reach(
    node: Any, pattern: list[str], keys: tuple[str, ...] = (), entry: Any = None
) -> Iterator[tuple[Any, tuple[str, ...], float]]:
    if not pattern:
        yield entry, keys, node
        return
    items = dict(enumerate(node)) if isinstance(node, list) else node
    keys_there = {"*": list(items), "%": [key for key in items if isinstance(key, int)]}
    for key in keys_there.get(pattern[0], [pattern[0]]):
        child = items[key]
        # The entry of a figure is the nearest mapping above it that says more than numbers.
        nearest = (
            child if isinstance(child, dict) and any(isinstance(value, str) for value in child.values()) else entry
        )
        yield from _reach(child, pattern[1:], (*keys, str(key)), nearest or node)


def _identity(entry: Mapping[Any, Any], path: tuple[str, ...]) -> list[str]:
    return [entry["strategy"], entry["objective"]] if "objective" in entry else list(path)


def _analysed(results: Results, analysis: str, timm: str, img_size: int) -> Mapping[str, Any] | str:
    """What an analysis measured of the published model, or why there is nothing."""
    named = [
        measured for key, measured in results.analyses[analysis].items() if timm in (key, measured["architecture"])
    ]
    if not named:
        return f"{timm} was not analysed"
    pretrained = [measured for measured in named if measured["weights"] == "pretrained"]
    if not pretrained:
        return f"{timm}: weights are {named[0]['weights']}, the claim is of pretrained ones"
    size = pretrained[0]["input_size"][-1]
    if size != img_size:
        return f"{timm} was analysed at {size} pixels, the claim is of {img_size}"
    return pretrained[0]


def _analysis_dims(claim: Claim, results: Results) -> float | str:
    analysis, level = claim.id.split("/", 1)[0], claim.path[-1]
    size = claim.backbone.get("img_size", IMAGE_SIZE)
    measured = _analysed(results, analysis, claim.backbone["timm"], size)
    if isinstance(measured, str):
        return measured
    value = measured["dims" if analysis == "sep" else "dims_p99"].get(level)
    return f"no threshold of {level} %" if value is None else value


def _headline_dims(claim: Claim, results: Results) -> float | str:
    measured = _analysed(results, "svd", claim.entry["teacher"], IMAGE_SIZE)
    if isinstance(measured, str):
        return measured
    return measured["dims_p99"].get(str(round(100 * float(claim.path[-1]))), "no such threshold")


def _top1(results: Results, **wanted: Any) -> list[float] | str:
    """Top-1 of the runs in question, or why there is none that counts."""
    named = " with ".join(str(value) for value in wanted.values())
    found = [run for run in results.runs if all(run[key] == value for key, value in wanted.items())]
    if not found:
        return f"no run of {named}"
    if any(run["teacher_weights"] == "random" for run in found):
        return f"{named}: the teacher's weights are random"
    return [run["top1"] for run in found]


def _mean_top1(results: Results, **wanted: Any) -> float | str:
    found = _top1(results, **wanted)
    return found if isinstance(found, str) else sum(found) / len(found)


def _run_top1(claim: Claim, results: Results) -> float | str:
    return _mean_top1(results, strategy=claim.entry["strategy"], objective=claim.entry["objective"])


def _best_top1(claim: Claim, results: Results) -> float | str:
    found = _top1(results, strategy=claim.path[-1])
    return found if isinstance(found, str) else max(found)


def _lift_width_top1(claim: Claim, results: Results) -> float | str:
    # Lift to the student's own width is published as the baseline's figure.
    width = int(claim.path[-1])
    strategies = {
        run["strategy"] for run in results.runs if run["width"] == width and run["strategy"].startswith("lift")
    }
    return (
        _mean_top1(results, strategy=min(strategies), objective="none")
        if strategies
        else f"no Lift to {width} channels"
    )


def _student_parameters(claim: Claim, results: Results) -> float | str:
    return results.cost[claim.path[0]]["parameters"]


def _student_flops(claim: Claim, results: Results) -> float | str:
    return results.cost[claim.path[0]]["flops"]


MEASURES: dict[str, Callable[[Claim, Results], float | str]] = {
    "analysis_dims": _analysis_dims,
    "headline_dims": _headline_dims,
    "run_top1": _run_top1,
    "best_top1": _best_top1,
    "lift_width_top1": _lift_width_top1,
    "student_parameters": _student_parameters,
    "student_flops": _student_flops,
}


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The verdict on one claim: id, statement, source, published and measured figure, tolerance, verdict, reason."""
    measured: float | str
    if claim.needs == "imagenet" and results.dataset != "imagenet":
        measured = f"this run is of {results.dataset}, the claim is of ImageNet-1K"
    else:
        measured = MEASURES[claim.measure](claim, results)
    verdict = {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "published": claim.figure,
    }
    if isinstance(measured, str):
        return {**verdict, "measured": None, "tolerance": 0.0, "verdict": NOT_MEASURED, "reason": measured}
    allowed = max(claim.tolerance.get("absolute", 0.0), claim.tolerance.get("relative", 0.0) * abs(claim.figure))
    difference = measured - claim.figure
    holds = abs(difference) <= allowed
    return {
        **verdict,
        "measured": measured,
        "tolerance": allowed,
        "verdict": CONFIRMED if holds else CONTRADICTED,
        "reason": f"differs by {difference:+g}, {'within' if holds else 'beyond'} {allowed:g}",
    }


def judge_all(claim: Claim, runs: Mapping[str, Results]) -> dict[str, Any]:
    """The verdict of several runs on one claim.

    Args:
        claim: the claim.
        runs: each run's results by its name, the current one first.

    Returns:
        As `judge`, of the first run that contradicts the claim, else of the first that confirms it, with
        `run`, its name (None where none measured the claim), and `others`: run, measured, verdict and reason
        of every further run that measured it.
    """
    verdicts = {name: judge(claim, results) for name, results in runs.items()}
    measured = {name: verdict for name, verdict in verdicts.items() if verdict["verdict"] != NOT_MEASURED}
    if not measured:
        reasons = {name: verdict["reason"] for name, verdict in verdicts.items()}
        same = len(set(reasons.values())) == 1
        told = [reason if same else f"{name}: {reason}" for name, reason in reasons.items()]
        first = next(iter(verdicts.values()))
        return {**first, "reason": told[0] if same else "; ".join(told), "run": None, "others": []}
    deciding = min(measured, key=lambda name: measured[name]["verdict"] != CONTRADICTED)
    keys = ("measured", "verdict", "reason")
    others = [
        {"run": name, **{key: verdict[key] for key in keys}} for name, verdict in measured.items() if name != deciding
    ]
    return {**measured[deciding], "run": deciding, "others": others}
