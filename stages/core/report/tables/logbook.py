"""Every claim with verdict, scale, value, evidence and cost: for the logbooks of reproducibility tracks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from stages.core.evidence.claims import FAMILIES, Claim
from stages.core.evidence.effort import Effort, Rates, duration, effort
from stages.core.evidence.scales import LEADS, NOT_MEASURED
from stages.core.evidence.tracks import Tracks


def anchor(claim: str) -> str:
    """The address of a claim on a page, from its id."""
    return f"claim-{re.sub(r'[^a-z0-9]+', '-', claim.lower()).strip('-')}"


def figure_file(evidence: Mapping[str, Any]) -> str | None:
    """The file of the figure that shows a verdict's value; None without one."""
    if not evidence["figure"]:
        return None
    results = PurePosixPath(evidence["metric"].partition(":")[0]).parent
    return f"{results.parent}/figures/{evidence['figure']}.svg"


def efforts(claims: Iterable[Claim], commands: Sequence[Mapping[str, str]], rates: Rates) -> dict[str, Effort]:
    """The run that measures each claim, by the claim's id.

    Args:
        claims: the register.
        commands: what `stages.core.evidence.effort.read_commands` reads.
        rates: what was measured of the time that runs take.
    """
    return {claim.id: effort(claim, commands, rates) for claim in claims}


def entries(audit: Mapping[str, Any], measured_by: Mapping[str, Effort], tracks: Tracks) -> list[dict[str, Any]]:
    """One entry for each claim of audit.json, as plain values.

    Args:
        audit: audit.json.
        measured_by: of `efforts`.
        tracks: the words of reproducibility tracks.
    """
    found = []
    for claim in audit["claims"]:
        run, evidence = measured_by[claim["id"]], claim["evidence"]
        found.append(
            {
                **{key: claim[key] for key in ("id", "family", "statement", "source", "published", "expected")},
                "anchor": anchor(claim["id"]),
                "verdict": claim["verdict"],
                "scale": claim["where"],
                "logbook": tracks.word(claim),
                **{key: claim[key] for key in ("measured", "interval", "reason", "run")},
                "evidence": evidence and {"metric": evidence["metric"], "figure": figure_file(evidence)},
                "needs": claim["scale"],
                "command": run.command,
                "cost": {"hours": run.hours and float(f"{run.hours:.3g}"), "how": run.how, "machine": run.machine},
                "others": claim["others"],
            }
        )
    return found


def markdown(listed: Sequence[Mapping[str, Any]]) -> str:
    """The entries as Markdown, family by family, each with an address of its own."""
    parts = []
    for family in FAMILIES:
        own = [one for one in listed if one["family"] == family]
        parts.append(f"## {family[0].upper()}{family[1:]}\n\n" + "\n".join(map(_paragraph, own)))
    return "\n".join(parts)


def _paragraph(one: Mapping[str, Any]) -> str:
    """One claim in a paragraph."""
    published = "" if one["published"] is None else f"published {one['published']:,.12g}; "
    where = f" {LEADS[one['scale']]}" if one["scale"] else ""
    verdict = f"**{one['verdict']}**{where} (logbook: {one['logbook']})"
    if one["verdict"] == NOT_MEASURED:
        found = f"{verdict}: {one['reason']}."
    else:
        evidence = f"`{one['evidence']['metric']}`"
        evidence += f", figure `{one['evidence']['figure']}`" if one["evidence"]["figure"] else ""
        found = f"{verdict}, {one['measured']:,.6g} by {one['run']}: {one['reason']} ({evidence})."
    others = "".join(
        f" Also {other['verdict']} {LEADS[other['where']]}, {other['measured']:,.6g} by {other['run']}."
        for other in one["others"]
    )
    cost = one["cost"]
    time = cost["how"] if cost["hours"] is None else f"{duration(cost['hours'])} on {cost['machine']}, {cost['how']}"
    claim = f"{one['statement']} ({one['source']}): {published}expected {one['expected']}"
    return f'<a id="{one["anchor"]}"></a>{claim}. {found}{others} Measured by `{one["command"]}`: {time}.\n'
