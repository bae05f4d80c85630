"""Published claims as data, and the verdict on each from what was measured.

A run judges a claim at the nearest scale to the paper whose requirements it meets (`scales`):

* at the paper's own setting a value confirms a figure within the tolerance, and contradicts it beyond; words are judged
  by bounds. With a confidence interval it does either only if the whole interval does; else the claim stays open;
* on another sample of the same kind, a figure is consistent if it lies where another sample of the paper's size would
  fall (`stages.core.analysis.intervals.of_another_sample`), words by their bounds;
* at another scale, words hold there or do not, by the same bounds. Figures are not judged.

What cannot be judged anywhere is `not measured`, with the reason. Several runs may measure one claim. They are neither
averaged nor counted against each other: the nearest to the paper decides, and there the first that the claim fails.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stages.core.evidence.claims import Claim
from stages.core.evidence.measured import Measured
from stages.core.evidence.measures import MEASURES
from stages.core.evidence.register import BOUNDS
from stages.core.evidence.requirements import ANY_RUN, REQUIREMENTS, unmet_requirement
from stages.core.evidence.results import Results
from stages.core.evidence.scales import ELSEWHERE, NOT_MEASURED, PAPER, SAMPLE, WEIGHTS, WORDS, rank, requirements
from stages.core.evidence.statistics import NOT_SHOWN

NO_BOUND = "no bound"
RELEASED = "reports/reference/released.json"  # what the authors' released students reach here


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The verdict of one run on one claim.

    Returns:
        id, family, statement, source, published (None for words), expected (what confirms, in words), scale (what a
        run must be to count), where (the scale of the verdict; None where nothing was measured), measured, interval
        (None where there is none; of another sample, where its value would fall), tolerance, verdict, reason, evidence:
        metric and figure.
    """
    reason = ""
    for where, required in requirements(claim).items():
        asked = replace(claim, requires=required)
        measured = unmet_requirement(asked, "of_results", results) or MEASURES[claim.measure](asked, results)
        if isinstance(measured, Measured) and where == SAMPLE and _lacks_interval(claim, measured):
            measured = "where another sample's value would fall is not recorded; analyse it again"
        decided = measured if isinstance(measured, str) else _decide(claim, measured, where)
        if not isinstance(measured, str) and not isinstance(decided, str):
            verdict, reason = decided
            interval = measured.another_sample if where == SAMPLE else measured.interval
            return {
                **_asked(claim, where),
                "measured": measured.value,
                "interval": interval and [None if math.isnan(end) else end for end in interval],
                "tolerance": _tolerance(claim) if where == PAPER else 0.0,
                "verdict": verdict,
                "reason": f"{reason}{measured.caution}",
                "evidence": {"metric": measured.metric, "figure": measured.figure},
            }
        reason = str(decided)
    unknown = {"measured": None, "interval": None, "tolerance": 0.0, "verdict": NOT_MEASURED}
    return {**_asked(claim, None), **unknown, "reason": reason, "evidence": None}


def _asked(claim: Claim, where: str | None) -> dict[str, Any]:
    """The entries of a verdict that say what is claimed, and where it was judged."""
    needed = [", ".join(REQUIREMENTS[name].words for name in names) for names in (claim.requires, claim.elsewhere)]
    return {
        "id": claim.id,
        "family": claim.family,
        "statement": claim.statement,
        "source": claim.source,
        "published": claim.figure,
        "expected": expected(claim),
        "scale": f"; {ELSEWHERE}: ".join(filter(None, needed)),
        "where": where,
    }


def expected(claim: Claim) -> str:
    """What a measured value must be to confirm a claim."""
    if claim.figure is None:
        return ", ".join(BOUNDS[name].format(bound) for name, bound in claim.bounds.items()) or NO_BOUND
    allowed = _tolerance(claim)
    return f"{claim.figure:,.12g}" + (f" ± {allowed:.4g}" if allowed else "")


def _tolerance(claim: Claim) -> float:
    if claim.figure is None:
        return 0.0
    return max(claim.tolerance.get("absolute", 0.0), claim.tolerance.get("relative", 0.0) * abs(claim.figure))


def _lacks_interval(claim: Claim, measured: Measured) -> bool:
    return claim.figure is not None and measured.another_sample is None


def _side(value: float, claim: Claim, allowed: float) -> int:
    """0 where a value confirms, −1 where it is too low, 1 where it is too high."""
    if claim.figure is not None:
        difference = value - claim.figure
        return 0 if abs(difference) <= allowed else int(math.copysign(1, difference))
    low, high = claim.bounds, claim.bounds
    if value <= low.get("above", -math.inf) or value < low.get("at_least", -math.inf):
        return -1
    return 1 if value >= high.get("below", math.inf) or value > high.get("at_most", math.inf) else 0


def _decide(claim: Claim, measured: Measured, where: str) -> tuple[str, str] | str:
    """Verdict and reason; or the reason alone, where too little was measured to judge."""
    words, allowed = WORDS[where], _tolerance(claim)
    if measured.withheld and where == ELSEWHERE:
        return words.open, measured.withheld
    if claim.figure is None and not claim.bounds:
        return words.open, f"{measured.value:.3g}, {NO_BOUND}"
    if measured.interval is not None:
        low, high = measured.interval
        if math.isnan(low):
            return words.open, f"{NOT_SHOWN}: {measured.value:+.2f}, for which the seeds give no interval"
        ends = {_side(end, claim, allowed) for end in measured.interval}
        finding = f"interval {low:+.2f} to {high:+.2f}, expected {expected(claim)}"
        if len(ends) > 1:
            return words.open, f"{NOT_SHOWN}: {finding}"
        return (words.holds if ends == {0} else words.fails), finding
    if claim.figure is not None and where == SAMPLE and measured.another_sample is not None:
        low, high = measured.another_sample
        finding = f"{measured.value:g}; in 95 of 100 cases another sample gives {low:g} to {high:g}"
        return (words.holds if low <= claim.figure <= high else words.fails), finding
    side = _side(measured.value, claim, allowed)
    if claim.figure is None:
        finding = f"{measured.value:.4g}, expected {expected(claim)}"
    else:
        finding = f"differs by {measured.value - claim.figure:+g}, {'beyond' if side else 'within'} {allowed:g}"
    if side:
        return words.fails, finding
    return f"{finding}, but {measured.missing}" if measured.missing else (words.holds, finding)


def judge_all(
    claim: Claim, runs: Mapping[str, Results], released: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The verdict of several runs, and of the authors' released weights, on one claim.

    Args:
        claim: the claim.
        runs: each run's results by its name, the current one first. A claim that any run can judge is judged once for
            each value: by the first run that has it.
        released: what the authors' released students reach here, by strategy, as `stages.tools.released` records it.

    Returns:
        As `judge`, of the verdict nearest to the paper (`scales.rank`), with `run`, its name (None where none measured
        the claim), and `others`: run, where, measured, verdict and reason of every further one that measured it.
    """
    verdicts = {name: judge(claim, results) for name, results in runs.items()}
    measured = {name: verdict for name, verdict in verdicts.items() if verdict["measured"] is not None}
    if claim.requires == (ANY_RUN,):  # runs agree, unless the code changed between them
        values = [verdict["measured"] for verdict in measured.values()]
        firsts = {values.index(value) for value in values}
        measured = {name: of for place, (name, of) in enumerate(measured.items()) if place in firsts}
    measured |= _by_weights(claim, released or {})
    if not measured:
        reasons = {name: verdict["reason"] for name, verdict in verdicts.items()}
        same = len(set(reasons.values())) == 1
        shown = [reason if same else f"{name}: {reason}" for name, reason in reasons.items()]
        first = next(iter(verdicts.values()))
        return {**first, "reason": shown[0] if same else "; ".join(shown), "run": None, "others": []}
    deciding = min(measured, key=lambda name: rank(measured[name]))
    keys = ("where", "measured", "verdict", "reason")
    others = [
        {"run": name, **{key: verdict[key] for key in keys}} for name, verdict in measured.items() if name != deciding
    ]
    return {**measured[deciding], "run": deciding, "others": others}


def _by_weights(claim: Claim, released: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The verdict of the authors' own weights on the accuracy that is published of them, by the name of its source."""
    of = released.get(claim.path[-1]) if claim.by_weights and claim.path else None
    if of is None:
        return {}
    judged = replace(claim, tolerance=claim.by_weights)
    side, allowed = _side(of["top1"], judged, _tolerance(judged)), _tolerance(judged)
    difference = f"differ by {of['top1'] - judged.figure:+.2f}, {'beyond' if side else 'within'} {allowed:g}"
    weights = f"weights {of['source']} (SHA-256 {of['sha256'][:12]}…)"
    verdict = {
        **_asked(claim, WEIGHTS),
        "expected": expected(judged),
        "measured": of["top1"],
        "interval": None,
        "tolerance": allowed,
        "verdict": WORDS[WEIGHTS].fails if side else WORDS[WEIGHTS].holds,
        "reason": f"their weights {difference}, on {of['images']:,} images in {of['precision']}, without training; "
        f"{weights}",
        "evidence": {"metric": f"{RELEASED}: {claim.path[-1]}.top1", "figure": None},
    }
    return {WEIGHTS: verdict}
