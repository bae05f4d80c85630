"""What a recorded study shows of the paper's claims: sentences and a table, made from its tracked numbers alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.base.files import read_json
from stages.core.base.names import TEACHER, plural
from stages.core.evidence import scales
from stages.core.evidence.analysis_measures import OTHERWISE
from stages.core.evidence.claims import Claim
from stages.core.evidence.questions import UNCHECKED, WEAK, Questions, questions_table
from stages.core.evidence.results import read_results, read_table
from stages.core.evidence.scales import ELSEWHERE, PAPER, SAMPLE, WORDS
from stages.core.evidence.studies import Study
from stages.core.evidence.verdicts import NO_BOUND, judge
from stages.core.report import faces
from stages.core.report.markup import Badge, Lines

ANY_IMAGES = "study"  # the requirement of claims that a study of any natural images can judge
LEVEL = 95  # percent of the energy
REASONS = 5  # why claims cannot be judged: so many are named, the commonest
LEADS = {  # of a study's sentences
    PAPER: ("It confirms", "It contradicts", "It leaves open"),
    SAMPLE: ("Consistent with it", "Inconsistent with it", "Open on its sample"),
    ELSEWHERE: ("Holds there", "Does not hold there", "Open there"),
}


def findings(study: Study, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The verdicts of one study, as `judge` gives them, on the claims in words that it measured.

    Args:
        study: the study.
        claims: the register.
    """
    results = read_results(study.results, study.data)
    verdicts = (judge(claim, results) for claim in claims if ANY_IMAGES in claim.elsewhere)
    return [verdict for verdict in verdicts if verdict["measured"] is not None]


def table(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table of `findings`: each claim, what was measured of it, and the verdict."""
    return [
        {
            "claim": Lines(*claimed(verdict)),
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
    """The measured share in two digits, or the difference with its interval; without a bound, with what to compare."""
    if verdict["expected"] == NO_BOUND:
        return f"{verdict['measured']:.2g} ({verdict['reason'].partition('; ')[2]})"
    if verdict["interval"] is None and verdict["reason"].startswith(OTHERWISE):
        return f"{verdict['measured']:.2g} ({verdict['reason']})"
    if verdict["interval"] is None or verdict["where"] == SAMPLE:
        return f"{verdict['measured']:.2g}"
    low, high = (f"{end:+.2f}" if end is not None else "?" for end in verdict["interval"])
    return f"{verdict['measured']:+.2f} ({low} to {high})"


def sentences(
    verdicts: Sequence[Mapping[str, Any]], teacher: str = "", questions: str = "", *, brief: bool = False
) -> list[str]:
    """What the claims of each verdict are, one sentence for each verdict that there is.

    Of claims about a feature loss that was not applied strongly enough, or is not known to have been, nothing is said
    but that.

    Args:
        verdicts: as `findings` gives them.
        teacher: what `questions.weak_teacher` says.
        questions: what those questions are about of which nothing is said either.
        brief: without those that are open, and of those of which nothing is said their number in the place of words.
    """
    found = []
    for where, leads in LEADS.items():
        for lead, word in zip(leads, WORDS[where], strict=True):
            of = [one for one in verdicts if (one["where"], one["verdict"]) == (where, word) and not unsaid(one)]
            by_words: dict[str, list[Mapping[str, Any]]] = {}
            for one in of:
                by_words.setdefault(claimed(one)[0], []).append(one)
            listed = "; ".join(f"{words}, {_cases(cases)}" for words, cases in by_words.items())
            found += [f"**{lead}{teacher}**: {listed}."] if of and not (brief and word == WORDS[where].open) else []
    said_too = {claimed(one)[0] for one in verdicts if not unsaid(one)}
    withheld = list(dict.fromkeys(_named(one, claimed(one)[0] in said_too) for one in verdicts if unsaid(one)))
    said = f"{WEAK}, or not checked"
    listed = f"{sum(map(unsaid, verdicts))} claims about feature losses" if brief else "; ".join(withheld)
    listed += f"; questions on {questions}" if questions else ""
    return found + ([f"**{said[0].upper()}{said[1:]}{teacher}**: {listed}."] if withheld else [])


def _named(verdict: Mapping[str, Any], case: bool) -> str:
    """A claim's words, with the name of its case where others of them are said."""
    return claimed(verdict)[0] + (f" (`{verdict['id'].rpartition('/')[2]}`)" if case else "")


def unsaid(verdict: Mapping[str, Any]) -> bool:
    """Whether a verdict is about a feature loss that was not applied strongly enough, or is not known to have been."""
    return verdict["reason"].startswith((WEAK, UNCHECKED))


def asked(study: Study, register: Questions) -> pd.DataFrame:
    """The registered questions, judged by a study's runs."""
    return questions_table(applied(study), register)


def applied(study: Study) -> pd.DataFrame:
    """The runs of a study, with how far each feature loss moved the features as far as that was recorded."""
    return applied_runs(study.results, study.data)


def applied_runs(results: Path, manifest: Path) -> pd.DataFrame:
    """The runs of a folder of results, as `applied` has those of a study."""
    return pd.DataFrame(read_results(results, manifest).runs)


def teacher_top1(study: Study) -> float | None:
    """The top-1 of a study's teacher."""
    top1: float | None = read_json(study.results / "teacher.json").get("top1")
    return top1


def _cases(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """What was measured of the cases of one claim, each with its name where there are several."""
    if len(verdicts) == 1:
        return measured(verdicts[0])
    return ", ".join(f"`{one['id'].rpartition('/')[2]}` {measured(one)}" for one in verdicts)


def setting(study: Study) -> str:
    """What a study is of, and the energy that the teacher's images need in the per-image and in the shared basis."""
    data, teacher = (read_json(path) for path in (study.data, study.results / "teacher.json"))
    runs = read_table(study.results / "runs.csv")
    width, reached = int(runs["width"].min()), teacher.get("top1")
    return (
        f"Study `{study.name}`: {data['dataset']}; teacher `{teacher['architecture']}`"
        f"{'' if reached is None else f', top-1 {reached:.2f} %'}; {len(runs)} students, the narrowest {width} wide, "
        f"{runs['epochs'].max()} epochs, {faces.seeds(runs)}.{_geometry(study, width)}"
    )


def _geometry(study: Study, width: int) -> str:
    """The teacher's dims as the paper counts them, in a sentence; empty where its features were not analysed."""
    per_image, shared = (read_json(study.results / f"{name}.json").get(TEACHER) for name in ("svd", "pca"))
    if per_image is None or shared is None:
        return ""
    dims = {kind: of["dims_p99"][str(LEVEL)] for kind, of in (("per_image", per_image), ("shared", shared))}
    bound = (
        f" (an image's {per_image['tokens']} tokens allow {per_image['tokens']})"
        if per_image["tokens"] <= width
        else ""
    )
    return (
        f" For 99 % of the images {dims['per_image']:g} of {per_image['channels']} directions hold {LEVEL} % of the "
        f"energy in the per-image basis{bound}, {dims['shared']:g} in the shared one."
    )


def counted(study: Study, claims: Sequence[Claim]) -> str:
    """How many claims have each verdict by a study alone, in words."""
    results = read_results(study.results, study.data)
    return scales.sentence(scales.counts(judge(claim, results) for claim in claims))


def limits(study: Study, claims: Sequence[Claim], reasons_named: int = REASONS) -> str:
    """What a study cannot show, as a sentence: how many claims it cannot judge, and the commonest reasons.

    Args:
        study: the study.
        claims: the register.
        reasons_named: how many reasons are named.
    """
    results = read_results(study.results, study.data)
    verdicts = [judge(claim, results) for claim in claims]
    reasons = Counter(verdict["reason"] for verdict in verdicts if verdict["measured"] is None)
    listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(reasons_named))
    left = len(reasons) - reasons_named
    more = f"; {plural(left, 'other reason')}" if left > 0 else ""
    return f"**It cannot show** {reasons.total()} of {len(claims)} claims: {listed}{more}."
