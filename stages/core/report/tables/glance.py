"""At a glance: scope, needs, time and cost of each scale, and outcome, in the terms of reproducibility tracks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.evidence import scales
from stages.core.evidence.effort import PAPER, Effort, Rates, analysis, default, duration, training
from stages.core.evidence.studies import Study
from stages.core.evidence.tracks import Tracks

NEEDS = "this repository (Apache 2.0); digits embedded, CIFAR-100 and ImageNet-1K yours"


def rows(
    audit: Mapping[str, Any],
    measured_by: Mapping[str, Effort],
    rates: Rates,
    tracks: Tracks,
    recorded: Sequence[Study],
) -> dict[str, str]:
    """What an auditor asks first, as terms and texts.

    Args:
        audit: audit.json.
        measured_by: the run that measures each claim, by its id.
        rates: what was measured of the time that runs take.
        tracks: the words of reproducibility tracks.
        recorded: the studies.
    """
    judged = {**audit["counts"], scales.NOT_MEASURED: 0}
    earned = tracks.earned(audit, rates)
    badges = "; ".join(
        f"{word}: {', '.join(names)}"
        for word, given in (("met", True), ("not met", False))
        if (names := [name for name, met in earned.items() if met == given])
    )
    words = ", ".join(f"{count} {word}" for word, count in tracks.counts(audit["claims"]).items())
    return {
        "scope": scope(audit, measured_by),
        "code, data": NEEDS,
        "hardware, time, cost": costs(rates, recorded),
        "outcome": scales.sentence(judged),
        "ACM badges": badges,
        "logbook": words,
    }


def scope(audit: Mapping[str, Any], measured_by: Mapping[str, Effort]) -> str:
    """How many claims were measured, of those that each kind of run would judge."""
    kinds = Counter(measured_by[claim["id"]].kind for claim in audit["claims"])
    found = Counter(measured_by[claim["id"]].kind for claim in audit["claims"] if claim["run"] is not None)
    listed = ", ".join(f"{found[kind]} of {count} on {kind}" for kind, count in kinds.items())
    return f"claims measured at any scale: {listed}"


def costs(rates: Rates, recorded: Sequence[Study]) -> str:
    """Hardware and time of each scale, and whether they were measured or are priced."""
    priced = {
        "default": default(rates),
        "backbones": analysis(rates),
        "the paper's students": training(rates, PAPER),
    }
    texts = [
        f"{name}: {how if hours is None else f'{duration(hours)} on {machine}, {how}'}"
        for name, (hours, how, machine) in priced.items()
    ]
    timed = {study.name: study.record.get("hours") for study in recorded if study.has_students}
    texts += [f"{name}: {'not recorded' if hours is None else duration(hours)}" for name, hours in timed.items()]
    return "; ".join(texts)
