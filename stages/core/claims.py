"""Published claims as data, and the verdict on each from what was measured.

A claim is `confirmed` or `contradicted` only by a measurement of the thing it speaks of; otherwise it is
`not measured`, with the reason. A value with a confidence interval confirms only if the whole interval does, and
contradicts only if the whole interval does; between the two it shows nothing, and the claim stays `not measured`.

Several runs may measure one claim. They are not averaged, and none outvotes another: the claim is contradicted if
any of them contradicts it, confirmed if at least one confirms it and none contradicts it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from stages.core.errors import UserError
from stages.core.measures import BACKBONES, MEASURES, Measured
from stages.core.names import setting_name
from stages.core.needs import NEEDS, Claim, Results, unmet
from stages.core.statistics import NOT_SHOWN

CONFIRMED, CONTRADICTED, NOT_MEASURED = "confirmed", "contradicted", "not measured"
BOUNDS = {"above": "above {:g}", "at_least": "at least {:g}", "below": "below {:g}", "at_most": "at most {:g}"}


def expand(families: list[Mapping[str, Any]], paper: Mapping[str, Any]) -> list[Claim]:
    """The claims of every family: one per published figure that its pattern reaches, or one per case of its words.

    Raises:
        UserError: a pattern reaches no figure, `other` more than one, or a family names an unknown measure, need or
            bound.
    """
    claims: list[Claim] = []
    for family in families:
        needs = [family["needs"]] if isinstance(family["needs"], str) else family["needs"]
        _check(family, needs)
        common = {
            "source": family["source"],
            "measure": family["measure"],
            "needs": tuple(needs),
            "tolerance": family.get("tolerance", {}),
            "bounds": family.get("bounds", {}),
            "paper": paper,
        }
        if "figures" not in family:
            for case, of in family.get("cases", {"": {}}).items():
                known = dict(of or {})
                if known.get("backbones") == "published":
                    known["backbones"] = paper[BACKBONES]
                name = "/".join(filter(None, [family["id"], case]))
                claims.append(
                    Claim(id=name, statement=family["statement"].format(case), figure=None, of=known, **common)
                )
            continue
        known = {}
        if "other" in family:
            others = _figures(family, paper, family["other"])
            if len(others) > 1:
                raise UserError(
                    f"claims.yaml: {family['id']}: {family['other']} reaches {len(others)} figures, not one"
                )
            known = {"other": family["other"], "value": others[0][2]}
        for entry, keys, figure in _figures(family, paper, family["figures"]):
            path = keys[1:]
            claims.append(
                Claim(
                    id="/".join([family["id"], *_identity(entry, path)]),
                    statement=family["statement"].format(*path, **{str(key): value for key, value in entry.items()}),
                    figure=figure,
                    entry=entry,
                    backbone=paper.get(BACKBONES, {}).get(path[0], {}),
                    path=path,
                    of=known,
                    **common,
                )
            )
    return claims


def _check(family: Mapping[str, Any], needs: list[str]) -> None:
    for kind, given, there in (
        ("measure", [family["measure"]], MEASURES),
        ("need", needs, NEEDS),
        ("bound", family.get("bounds", {}), BOUNDS),
    ):
        unknown = [name for name in given if name not in there]
        if unknown:
            raise UserError(f"claims.yaml: {family['id']}: no {kind} {unknown[0]}; there are {', '.join(there)}")


def _figures(family: Mapping[str, Any], paper: Mapping[str, Any], pattern: str) -> list[tuple[Any, Any, float]]:
    found = list(_reach(paper, pattern.split(".")))
    if not found:
        raise UserError(f"claims.yaml: {family['id']}: {pattern} reaches nothing in paper.yaml")
    return found


def _reach(
    node: Any, pattern: list[str], keys: tuple[str, ...] = (), entry: Any = None
) -> Iterator[tuple[Any, tuple[str, ...], float]]:
    if not pattern:
        yield entry, keys, node
        return
    # The rows of a table are known by strategy and objective, wherever they stand.
    items = {setting_name(row["strategy"], row["objective"]): row for row in node} if isinstance(node, list) else node
    keys_there = {"*": list(items), "%": [key for key in items if isinstance(key, int)]}
    for key in keys_there.get(pattern[0], [key for key in items if str(key) == pattern[0]]):
        child = items[key]
        # The entry of a figure is the nearest mapping above it that says more than numbers.
        nearest = (
            child if isinstance(child, dict) and any(isinstance(value, str) for value in child.values()) else entry
        )
        yield from _reach(child, pattern[1:], (*keys, str(key)), nearest or node)


def _identity(entry: Mapping[Any, Any], path: tuple[str, ...]) -> list[str]:
    return [entry["strategy"], entry["objective"]] if "objective" in entry else list(path)


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The verdict of one run on one claim.

    Returns:
        id, statement, source, published (None for words), expected (what confirms, in words), scale (what a run must
        be), measured, interval (None where there is none), tolerance, verdict, reason, evidence: metric and figure.
    """
    allowed = _tolerance(claim)
    verdict = {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "published": claim.figure,
        "expected": expected(claim),
        "scale": ", ".join(NEEDS[need].words for need in claim.needs),
    }
    measured = unmet(claim, "of_results", results) or MEASURES[claim.measure](claim, results)
    if isinstance(measured, str):
        nothing = {"measured": None, "interval": None, "tolerance": 0.0, "verdict": NOT_MEASURED}
        return {**verdict, **nothing, "reason": measured, "evidence": None}
    decided, reason = _decide(claim, measured, allowed)
    interval = measured.interval and [None if math.isnan(end) else end for end in measured.interval]
    return {
        **verdict,
        "measured": measured.value,
        "interval": interval,
        "tolerance": allowed,
        "verdict": decided,
        "reason": reason,
        "evidence": {"metric": measured.metric, "figure": measured.figure},
    }


def expected(claim: Claim) -> str:
    """What a measured value must be to confirm a claim."""
    if claim.figure is None:
        return ", ".join(BOUNDS[name].format(bound) for name, bound in claim.bounds.items())
    allowed = _tolerance(claim)
    return f"{claim.figure:,.12g}" + (f" ± {allowed:.4g}" if allowed else "")


def _tolerance(claim: Claim) -> float:
    if claim.figure is None:
        return 0.0
    return max(claim.tolerance.get("absolute", 0.0), claim.tolerance.get("relative", 0.0) * abs(claim.figure))


def _side(value: float, claim: Claim, allowed: float) -> int:
    """0 where a value confirms, −1 where it lies too low, 1 where too high."""
    if claim.figure is not None:
        difference = value - claim.figure
        return 0 if abs(difference) <= allowed else int(math.copysign(1, difference))
    low, high = claim.bounds, claim.bounds
    if value <= low.get("above", -math.inf) or value < low.get("at_least", -math.inf):
        return -1
    return 1 if value >= high.get("below", math.inf) or value > high.get("at_most", math.inf) else 0


def _decide(claim: Claim, measured: Measured, allowed: float) -> tuple[str, str]:
    side = _side(measured.value, claim, allowed)
    if measured.interval is not None:
        low, high = measured.interval
        if math.isnan(low):
            return (
                NOT_MEASURED,
                f"{NOT_SHOWN}: all seeds differ by the same {measured.value:+.2f}, which gives no interval",
            )
        ends = {_side(end, claim, allowed) for end in measured.interval}
        told = f"interval {low:+.2f} to {high:+.2f}, expected {expected(claim)}"
        if len(ends) > 1:
            return NOT_MEASURED, f"{NOT_SHOWN}: {told}"
        return (CONFIRMED if ends == {0} else CONTRADICTED), told
    if claim.figure is None:
        told = f"{measured.value:.4g}, expected {expected(claim)}"
    else:
        told = f"differs by {measured.value - claim.figure:+g}, {'beyond' if side else 'within'} {allowed:g}"
    if side:
        return CONTRADICTED, told
    return (NOT_MEASURED, f"{told}, but {measured.missing}") if measured.missing else (CONFIRMED, told)


def judge_all(claim: Claim, runs: Mapping[str, Results]) -> dict[str, Any]:
    """The verdict of several runs on one claim.

    Args:
        claim: the claim.
        runs: each run's results by its name, the current one first.

    Returns:
        As `judge`, of the first run that contradicts the claim, else of the first that confirms it, else of the first
        that measured it, with `run`, its name (None where none measured the claim), and `others`: run, measured,
        verdict and reason of every further run that measured it.
    """
    verdicts = {name: judge(claim, results) for name, results in runs.items()}
    measured = {name: verdict for name, verdict in verdicts.items() if verdict["measured"] is not None}
    if not measured:
        reasons = {name: verdict["reason"] for name, verdict in verdicts.items()}
        same = len(set(reasons.values())) == 1
        told = [reason if same else f"{name}: {reason}" for name, reason in reasons.items()]
        first = next(iter(verdicts.values()))
        return {**first, "reason": told[0] if same else "; ".join(told), "run": None, "others": []}
    order = (CONTRADICTED, CONFIRMED, NOT_MEASURED)
    deciding = min(measured, key=lambda name: order.index(measured[name]["verdict"]))
    keys = ("measured", "verdict", "reason")
    others = [
        {"run": name, **{key: verdict[key] for key in keys}} for name, verdict in measured.items() if name != deciding
    ]
    return {**measured[deciding], "run": deciding, "others": others}
