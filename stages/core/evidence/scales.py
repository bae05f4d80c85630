"""Where a claim was judged, what a run must be to judge it there, and the words of a verdict there.

A claim is about the paper's own setting, and only a run of that setting confirms or contradicts it. What another sample
of the same kind, another scale or the authors' weights show is told apart, in words of their own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stages.core.evidence.claims import Claim

# From the nearest to the paper to the farthest.
PAPER, WEIGHTS, SAMPLE, ELSEWHERE = "the paper's setting", "the authors' weights", "another sample", "another scale"


class Words(NamedTuple):
    """The verdicts at one scale: the claim holds, it fails, or what was measured leaves it open."""

    holds: str
    fails: str
    open: str


WORDS = {
    PAPER: Words("confirmed", "contradicted", "open"),
    WEIGHTS: Words("met by weights", "missed by weights", "open"),
    SAMPLE: Words("consistent", "inconsistent", "open"),
    ELSEWHERE: Words("holds there", "does not hold there", "open there"),
}
NOT_MEASURED = "not measured"
LEADS = {PAPER: f"at {PAPER}", WEIGHTS: f"by {WEIGHTS}", SAMPLE: f"on {SAMPLE}", ELSEWHERE: f"at {ELSEWHERE}"}
SAMPLES = {"sample": "like_sample"}  # of the requirements, those that another sample of the same kind meets instead


def requirements(claim: Claim) -> dict[str, tuple[str, ...]]:
    """What a run must be to judge a claim, by where; the nearest to the paper first."""
    found = {PAPER: claim.requires} if claim.requires else {}
    if SAMPLES.keys() & set(claim.requires):
        found[SAMPLE] = tuple(SAMPLES.get(name, name) for name in claim.requires)
    return found | ({ELSEWHERE: claim.elsewhere} if claim.elsewhere else {})


def rank(verdict: Mapping[str, Any]) -> tuple[int, int]:
    """A sort key: the nearest to the paper first, there failures before what holds and what is open.

    So of several runs that judge one claim at one scale none is outvoted.
    """
    if verdict["where"] is None:
        return len(WORDS), 0
    words = WORDS[verdict["where"]]
    return list(WORDS).index(verdict["where"]), (words.fails, words.holds, words.open).index(verdict["verdict"])


def counts(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many claims have each verdict, scale by scale, and how many were not measured."""
    counted = Counter((verdict["where"], verdict["verdict"]) for verdict in verdicts)
    return {
        **{where: {word: counted[where, word] for word in words} for where, words in WORDS.items()},
        NOT_MEASURED: counted[None, NOT_MEASURED],
    }


def counted(count: int, word: str) -> str:
    """So many verdicts, in words: "1 holds there", "7 hold there"."""
    return f"{count} {word if count == 1 else word.replace('holds', 'hold').replace('does', 'do')}"


def sentence(counts: Mapping[str, Any]) -> str:
    """What `counts` found, without zeros: "at the paper's setting 7 confirmed; …; 231 not measured"."""
    parts = []
    for where, lead in LEADS.items():
        found = ", ".join(counted(count, word) for word, count in counts[where].items() if count)
        parts += [f"{lead} {found}"] if found else []
    if counts[NOT_MEASURED] or not parts:
        parts.append(f"{counts[NOT_MEASURED]} {NOT_MEASURED}")
    return "; ".join(parts)
