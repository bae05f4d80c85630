"""What a recorded study shows of the paper's claims: sentences and a table, made from its tracked numbers alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.base.files import read_json
from stages.core.evidence.claims import Claim
from stages.core.evidence.results import Results, read_results
from stages.core.evidence.studies import Study
from stages.core.evidence.verdicts import CONFIRMED, CONTRADICTED, NOT_MEASURED, judge
from stages.core.report.markup import Badge, Lines
from stages.core.report.notebooks import read_table
from stages.core.report.tables.encoding import premise

ANY_IMAGES = "study"  # the requirement of claims that a study of any natural images can judge
LEADS = {
    CONFIRMED: "It confirms",
    CONTRADICTED: "It contradicts",
    NOT_MEASURED: "Measured, but no difference is shown",
}


def findings(study: Study, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The verdicts of one study, as `judge` gives them, on the claims in words that it measured.

    Args:
        study: the study.
        claims: the register.
    """
    results = read_results(study.results, study.data)
    verdicts = (judge(claim, results) for claim in claims if ANY_IMAGES in claim.requires)
    return [verdict for verdict in verdicts if verdict["measured"] is not None]


def table(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table of `findings`: each claim, what was measured of it, and the verdict."""
    return [
        {
            "the paper says": Lines(*claimed(verdict)),
            "expected": verdict["expected"],
            "measured": measured(verdict),
            "verdict": Badge(verdict["verdict"]),
        }
        for verdict in verdicts
    ]


def claimed(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """A claim's words, and the quantity by which it is judged: the parts of its statement."""
    words, _, quantity = verdict["statement"].partition(": ")
    return words, quantity


def measured(verdict: Mapping[str, Any]) -> str:
    """The measured value, a difference with its interval."""
    if verdict["interval"] is None:
        return f"{verdict['measured']:.2f}"
    low, high = (f"{end:+.2f}" if end is not None else "?" for end in verdict["interval"])
    return f"{verdict['measured']:+.2f} ({low} to {high})"


def sentences(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the claims of each verdict are, one sentence for each verdict that there is."""
    found = []
    for verdict, lead in LEADS.items():
        of = [one for one in verdicts if one["verdict"] == verdict]
        if of:
            listed = "; ".join(f"{claimed(one)[0]}, {measured(one)}" for one in of)
            found.append(f"**{lead}** ({len(of)}): {listed}.")
    return found


def setting(study: Study) -> str:
    """What a study is of, and whether the paper's premise holds there."""
    data, teacher = read_json(study.data), read_json(study.results / "teacher.json")
    runs = read_table(study.results / "runs.csv")
    students = runs[runs["strategy"] == "baseline"] if (runs["strategy"] == "baseline").any() else runs
    reached = "" if teacher.get("top1") is None else f", top-1 {teacher['top1']:.2f} %"
    text = (
        f"`{study.name}`: {data['dataset']}, {data['classes']} classes; teacher `{teacher['architecture']}`{reached}; "
        f"students {int(students['width'].min())} channels wide, {int(runs['epochs'].max())} epochs, "
        f"{runs['seed'].nunique()} seeds."
    )
    floors, encoding = (study.results / f"{name}.csv" for name in ("floor", "encoding"))
    return f"{text} {premise(read_table(floors), read_table(encoding))}"


def limits(study: Study, claims: Sequence[Claim]) -> str:
    """What a study cannot show: the claims that it cannot judge, counted by the scale that they need."""
    results = read_results(study.results, study.data)
    left = [claim for claim in claims if not _can_judge(claim, results)]
    return (
        f"**It cannot show** {len(left)} of {len(claims)} claims: the paper's figures are of ImageNet-1K, of other "
        "backbones, or of students that were not trained here. A claim in words is judged at this scale alone."
    )


def _can_judge(claim: Claim, results: Results) -> bool:
    return judge(claim, results)["measured"] is not None
