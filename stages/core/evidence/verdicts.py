"""Published claims as data, and the verdict on each from what was measured.

A claim is `confirmed` or `contradicted` only by a measurement of the thing it speaks of; otherwise it is
`not measured`, with the reason. A value with a confidence interval confirms a claim only if the whole interval does,
and contradicts it only if the whole interval does; otherwise the claim stays `not measured`.

Several runs may measure one claim. They are neither averaged nor counted against each other: the claim is contradicted
if any of them contradicts it, and confirmed if at least one confirms it and none contradicts it.
"""

import math
from collections.abc import Mapping
from typing import Any

from stages.core.evidence.claims import Claim
from stages.core.evidence.measures import MEASURES, Measured
from stages.core.evidence.register import BOUNDS
from stages.core.evidence.requirements import ANY_RUN, REQUIREMENTS, unmet_requirement
from stages.core.evidence.results import Results
from stages.core.evidence.statistics import NOT_SHOWN

CONFIRMED, CONTRADICTED, NOT_MEASURED = "confirmed", "contradicted", "not measured"


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The verdict of one run on one claim.

    Returns:
        id, family, statement, source, published (None for words), expected (what confirms, in words), scale (what a
        run must be to count), measured, interval (None where there is none), tolerance, verdict, reason, evidence:
        metric and figure.
    """
    allowed = _tolerance(claim)
    verdict = {
        "id": claim.id,
        "family": claim.family,
        "statement": claim.statement,
        "source": claim.source,
        "published": claim.figure,
        "expected": expected(claim),
        "scale": ", ".join(REQUIREMENTS[name].words for name in claim.requires),
    }
    measured = unmet_requirement(claim, "of_results", results) or MEASURES[claim.measure](claim, results)
    if isinstance(measured, str):
        unknown = {"measured": None, "interval": None, "tolerance": 0.0, "verdict": NOT_MEASURED}
        return {**verdict, **unknown, "reason": measured, "evidence": None}
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
    """0 where a value confirms, −1 where it is too low, 1 where it is too high."""
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
                f"{NOT_SHOWN}: {measured.value:+.2f}, for which the seeds give no interval",
            )
        ends = {_side(end, claim, allowed) for end in measured.interval}
        finding = f"interval {low:+.2f} to {high:+.2f}, expected {expected(claim)}{measured.caution}"
        if len(ends) > 1:
            return NOT_MEASURED, f"{NOT_SHOWN}: {finding}"
        return (CONFIRMED if ends == {0} else CONTRADICTED), finding
    if claim.figure is None:
        finding = f"{measured.value:.4g}, expected {expected(claim)}"
    else:
        finding = f"differs by {measured.value - claim.figure:+g}, {'beyond' if side else 'within'} {allowed:g}"
    if side:
        return CONTRADICTED, finding
    return (NOT_MEASURED, f"{finding}, but {measured.missing}") if measured.missing else (CONFIRMED, finding)


def judge_all(claim: Claim, runs: Mapping[str, Results]) -> dict[str, Any]:
    """The verdict of several runs on one claim.

    Args:
        claim: the claim.
        runs: each run's results by its name, the current one first. A claim that any run can judge is judged once for
            each value: by the first run that has it.

    Returns:
        As `judge`, of the first run that contradicts the claim, else of the first that confirms it, else of the first
        that measured it, with `run`, its name (None where none measured the claim), and `others`: run, measured,
        verdict and reason of every further run that measured it.
    """
    verdicts = {name: judge(claim, results) for name, results in runs.items()}
    measured = {name: verdict for name, verdict in verdicts.items() if verdict["measured"] is not None}
    if claim.requires == (ANY_RUN,):  # runs agree, unless the code changed between them
        values = [verdict["measured"] for verdict in measured.values()]
        firsts = {values.index(value) for value in values}
        measured = {name: of for place, (name, of) in enumerate(measured.items()) if place in firsts}
    if not measured:
        reasons = {name: verdict["reason"] for name, verdict in verdicts.items()}
        same = len(set(reasons.values())) == 1
        shown = [reason if same else f"{name}: {reason}" for name, reason in reasons.items()]
        first = next(iter(verdicts.values()))
        return {**first, "reason": shown[0] if same else "; ".join(shown), "run": None, "others": []}
    order = (CONTRADICTED, CONFIRMED, NOT_MEASURED)
    deciding = min(measured, key=lambda name: order.index(measured[name]["verdict"]))
    keys = ("measured", "verdict", "reason")
    others = [
        {"run": name, **{key: verdict[key] for key in keys}} for name, verdict in measured.items() if name != deciding
    ]
    return {**measured[deciding], "run": deciding, "others": others}
