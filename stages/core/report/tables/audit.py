"""The tables of the audit: verdicts on the published claims, with links to their evidence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from stages.core.evidence.verdicts import CONTRADICTED, NOT_MEASURED
from stages.core.report.notebooks import Link

ROOT = "../.."  # of the project, from a page or an executed notebook


def verdicts(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The number of claims with each verdict."""
    return [{"verdict": verdict, "claims": count} for verdict, count in audit["counts"].items()]


def register(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Claims of audit.json with verdict, reason and links to the evidence: one row for each run that measured one."""
    return [
        {
            "claim": claim["statement"],
            "expected": claim["expected"],
            "run": one["run"],
            "measured": one["measured"],
            "verdict": one["verdict"],
            "reason": one["reason"],
            "judged at": claim["scale"],
            "evidence": _evidence(claim) if one is claim else None,
            "source": claim["source"],
        }
        for claim in claims
        for one in (claim, *claim["others"])
    ]


def contradicted(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The claims of audit.json that something measured contradicts."""
    return [claim for claim in audit["claims"] if claim["verdict"] == CONTRADICTED]


def by_family(audit: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The claims of audit.json, grouped by the first part of their id."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for claim in audit["claims"]:
        families.setdefault(claim["id"].partition("/")[0], []).append(claim)
    return families


def families(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each family of claims: their number, their verdicts, and the most frequent reason why nothing was measured."""
    rows = []
    for name, claims in by_family(audit).items():
        reasons = Counter(claim["reason"] for claim in claims if claim["verdict"] == NOT_MEASURED)
        counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in audit["counts"]}
        rows.append({"family": name, "claims": len(claims), **counts})
        rows[-1]["most frequent reason"] = reasons.most_common(1)[0][0] if reasons else None
    return rows


def _evidence(claim: Mapping[str, Any]) -> list[Link] | None:
    """Links from a report's page, two folders below the root, to the metric's file and the figure."""
    if claim["evidence"] is None:
        return None
    metric, figure = claim["evidence"]["metric"], claim["evidence"]["figure"]
    file = PurePosixPath(metric.partition(":")[0])
    links = [Link(metric, f"{ROOT}/{file}")]
    if figure:
        links.append(Link(f"figure {figure}", f"{ROOT}/{file.parent.parent / 'figures' / figure}.svg"))
    return links
