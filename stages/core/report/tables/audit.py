"""The tables of the audit: verdicts on the published claims, scale by scale, with links to their evidence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode

from stages.core.evidence.claims import FAMILIES
from stages.core.evidence.effort import Effort
from stages.core.evidence.scales import LEADS, NOT_MEASURED, PAPER, SAMPLE, WORDS, counted, counts, rank
from stages.core.report.markup import Badge, Facet, Lines, Link
from stages.core.report.tables.logbook import anchor, figure_file

ROOT = "../.."  # of the project, from a page or an executed notebook
REFERENCE = "reports/reference/"  # begins the evidence that is published, not measured
NO_RUN = "none"  # the run that measured a claim, and where it was judged, if there is none
Claims = Sequence[Mapping[str, Any]]  # of audit.json


def said(published: Mapping[str, Any], teacher: str = "CaiT-S24") -> dict[str, str]:
    """What the paper claims in each family, in one sentence with its published figures.

    Args:
        published: paper.yaml.
        teacher: the paper's, by its name there.
    """
    headline, dims, cost = published["headline"], published["svd_and_pca_dims"][teacher], published["cost"]
    top1 = headline["top1"]
    spectral = next(
        row["top1"] for row in published["top1"] if (row["strategy"], row["objective"]) == ("baseline", "spectral")
    )
    flops = {name: of["flops"] / 1e9 for name, of in cost.items()}
    texts = (
        f"One image is of low rank: {headline['svd_p99_dims'][0.95]} of {teacher}'s {dims['D']} dimensions hold 95 % "
        "of its last-layer energy.",
        f"One basis for all images needs {dims['shared'][95]}.",
        "A single token spreads its energy over nearly all channel frequencies (Spectral Energy Pattern).",
        f"A narrow student cannot match that: feature distillation takes DeiT-Tiny only from {top1['baseline']:.2f} to "
        f"{spectral:.2f} % top-1.",
        f"Lift keeps a projector to the teacher's width, WideLast makes the last block as wide: "
        f"{top1['lift']:.2f} and {top1['widen']:.2f} %.",
        f"{flops['baseline']:.2f} GFLOPs become {flops['lift']:.2f} with Lift and {flops['widen']:.2f} with WideLast.",
    )
    return dict(zip(FAMILIES, texts, strict=True))


def of_family(audit: Mapping[str, Any], family: str) -> list[Mapping[str, Any]]:
    """The claims of audit.json that are of one family."""
    return [claim for claim in audit["claims"] if claim["family"] == family]


def register(
    claims: Claims, measured_by: Mapping[str, Effort] | None = None, page: str | None = None
) -> list[dict[str, Any]]:
    """Claims of audit.json with verdict, reason and links to the evidence: one row for each run that measured one.

    Args:
        claims: of audit.json.
        measured_by: the run that measures each claim, by its id, where its command and time are to be shown.
        page: the page of the audit, if each claim is to lead to its place there.
    """
    return [
        {
            "claim": Lines(_statement(claim, page), f"{claim['family']} · {claim['source']}"),
            "expected": claim["expected"],
            "measured": one["measured"],
            "verdict": Badge(one["verdict"]),
            "reason": Lines(one["reason"], LEADS.get(one["where"], f"needs: {claim['scale']}")),
            "run": one["run"] or NO_RUN,
            "evidence": _evidence(claim) if one is claim else None,
            **({} if measured_by is None else {"measured by": _measured_by(measured_by[claim["id"]])}),
        }
        for claim in claims
        for one in (claim, *claim["others"])
    ]


def anchors(claims: Claims) -> list[str]:
    """The addresses of the rows of `register`: each claim's first row has one."""
    return [anchor(claim["id"]) if one is claim else "" for claim in claims for one in (claim, *claim["others"])]


def _statement(claim: Mapping[str, Any], page: str | None) -> str | Link:
    return claim["statement"] if page is None else Link(claim["statement"], f"{page}#{anchor(claim['id'])}")


def _measured_by(effort: Effort) -> Lines:
    return Lines(effort.command, effort.text)


def measured_first(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The claims of audit.json, the nearest to the paper's setting first (failed, held, open), not measured last."""
    return sorted(audit["claims"], key=rank)


def failed(audit: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The claims of audit.json that fail, by how and where, as a heading; the nearest to the paper's setting first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for where, words in WORDS.items():
        how = words.fails.removesuffix(" there").removesuffix(" by weights")
        claims = [claim for claim in audit["claims"] if claim["verdict"] == words.fails]
        found |= {f"{how[0].upper()}{how[1:]} {LEADS[where]}": claims} if claims else {}
    return found


def facets(claims: Claims) -> list[Facet]:
    """What the rows of `register` can be filtered by; at first, the runs that measured something are chosen."""
    rows = [(claim, one) for claim in claims for one in (claim, *claim["others"])]
    runs = [one["run"] or NO_RUN for _, one in rows]
    return [
        Facet("run", [[run] for run in runs], [run for run in dict.fromkeys(runs) if run != NO_RUN]),
        Facet("where", [[one["where"] or NO_RUN] for _, one in rows], order=[*WORDS, NO_RUN]),
        Facet("verdict", [[one["verdict"]] for _, one in rows]),
        Facet("family", [[claim["family"]] for claim, _ in rows], order=FAMILIES),
        Facet("source", [publications(claim["source"]) for claim, _ in rows]),
    ]


def publications(source: str) -> list[str]:
    """The publications that a claim's source names, without the place in them."""
    return list(dict.fromkeys(one.partition(",")[0].strip() for one in source.split(";")))


def families(audit: Mapping[str, Any], published: Mapping[str, Any], page: str | None = None) -> list[dict[str, Any]]:
    """Each family of claims: what the paper says, and how many claims have each verdict, a column for each scale.

    Args:
        audit: audit.json.
        published: paper.yaml.
        page: the page of the audit, if each number is to be a link to the claims that it counts.
    """
    texts = said(published)
    judged = {family: counts(of_family(audit, family)) for family in FAMILIES}
    shown = [where for where in WORDS if where == PAPER or any(sum(of[where].values()) for of in judged.values())]
    rows = []
    for family, of in judged.items():
        cells = {LEADS[where]: _counted(of[where], family, where, page) for where in shown}
        unmeasured_ones = _counted({NOT_MEASURED: of[NOT_MEASURED]}, family, NO_RUN, page)
        rows.append({"family": family, "the paper says": texts[family], **cells, NOT_MEASURED: unmeasured_ones})
    return rows


def of_another_sample(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """Published figures of backbones beside those of another sample of the same kind, by backbone and analysis."""
    bases = {"svd": "per-image basis", "pca": "shared basis", "sep": "SEP"}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for claim in audit["claims"]:
        analysis, *place = claim["id"].split("/")  # svd/BACKBONE/BASIS/LEVEL, sep/BACKBONE/LEVEL
        if claim["where"] == SAMPLE and analysis in bases and claim["interval"]:
            groups.setdefault((place[0], analysis), []).append(claim)
    return [
        {
            "dims": f"{backbone}, {bases[analysis]}: {', '.join(claim['id'].rpartition('/')[2] for claim in claims)} %",
            "published": ", ".join(f"{claim['published']:g}" for claim in claims),
            "measured": ", ".join(f"{claim['measured']:.3g}" for claim in claims),
            "95 of 100 samples": ", ".join("–".join(f"{end:g}" for end in claim["interval"]) for claim in claims),
        }
        for (backbone, analysis), claims in groups.items()
    ]


def _counted(of: Mapping[str, int], family: str, where: str, page: str | None) -> list[Link] | str | None:
    """The verdicts of a cell, each with its count, as links where there is a page for them."""
    found = {word: count for word, count in of.items() if count}
    texts = {word: str(count) if word == NOT_MEASURED else counted(count, word) for word, count in found.items()}
    if page is None:
        return ", ".join(texts.values()) or None
    query = {"family": family, "where": where}
    links = [Link(text, f"{page}?{urlencode({**query, 'verdict': word})}#claims") for word, text in texts.items()]
    return links or None


def against_itself(audit: Mapping[str, Any]) -> str:
    """How many verdicts compare the published material with itself, so that no run is needed for them; or nothing."""
    of = [one for one in audit["claims"] if one["where"] == PAPER and REFERENCE in one["evidence"]["metric"]]
    verdicts = Counter(claim["verdict"] for claim in of)
    found = " and ".join(counted(verdicts[verdict], verdict) for verdict in WORDS[PAPER] if verdicts[verdict])
    return f"Of these, {found} compare the published material with itself, without any run." if of else ""


def unmeasured(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What would measure the claims that nothing measured: kinds of run, with their claims and what this run lacks."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for claim in audit["claims"]:
        if claim["run"] is None:
            kinds.setdefault(claim["scale"], []).append(claim)
    return [
        {
            "a run of": scale,
            "would judge": len(claims),
            "of": ", ".join(family for family in FAMILIES if family in {claim["family"] for claim in claims}),
            "why none did, most often": Counter(claim["reason"] for claim in claims).most_common(1)[0][0],
        }
        for scale, claims in sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    ]


def _evidence(claim: Mapping[str, Any]) -> list[Link] | None:
    """Links from a report's page, two folders below the root, to the metric's file and the figure."""
    if claim["evidence"] is None:
        return None
    metric, figure = claim["evidence"]["metric"], figure_file(claim["evidence"])
    file = PurePosixPath(metric.partition(":")[0])
    links = [Link(metric.replace(str(file), file.name), f"{ROOT}/{file}")]
    if figure:
        links.append(Link(f"figure {claim['evidence']['figure']}", f"{ROOT}/{figure}"))
    return links
