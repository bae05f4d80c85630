"""Verdicts and artifacts in the words of reproducibility tracks, by the table in reports/reference/tracks.yaml."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.evidence.effort import Rates
from stages.core.evidence.scales import NOT_MEASURED, PAPER, WORDS

FILE = "tracks.yaml"  # of reports/reference
HEADLINE = "headline_"  # begins the ids of the claims of the paper's abstract


@dataclass(frozen=True)
class Tracks:
    """What tracks.yaml holds.

    Attributes:
        words: of a logbook, with what each means.
        verdicts: the word of each verdict, by where it was judged.
        badges: what each badge asks, and the name of what decides it.
        sources: of the words of logbooks and badges, addresses.
    """

    words: Mapping[str, str]
    verdicts: Mapping[str, Mapping[str, str]]
    badges: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, str]

    def word(self, verdict: Mapping[str, Any]) -> str:
        """The word of a claim's verdict."""
        return self.verdicts[verdict["where"] or NOT_MEASURED][verdict["verdict"]]

    def counts(self, verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """How many claims have each word."""
        counted = Counter(map(self.word, verdicts))
        return {word: counted[word] for word in self.words}

    def earned(self, audit: Mapping[str, Any], rates: Rates) -> dict[str, bool]:
        """Which badges the artifacts meet, by name, as far as this project can say so of itself.

        Args:
            audit: audit.json.
            rates: what was measured of the time that runs take.
        """
        return {name: GIVEN[badge["given"]](badge, audit, rates) for name, badge in self.badges.items()}


def read_tracks(folder: Path) -> Tracks:
    """The table, from the folder of the reference data.

    Raises:
        UserError: a verdict has no word, or a word or badge is not defined.
    """
    path = folder / FILE
    content = read_yaml(path)
    logbook, badges = content["logbook"], dict(content["badges"])
    sources = {"logbook": logbook["source"], "badges": badges.pop("source")}
    asked = {where: set(words) for where, words in WORDS.items()} | {NOT_MEASURED: {NOT_MEASURED}}
    mapped = {where: set(words) for where, words in logbook["verdicts"].items()}
    if mapped != asked:
        wrong = next(where for where in {**asked, **mapped} if asked.get(where) != mapped.get(where))
        raise UserError(f"{path}: {wrong}: each verdict there needs one word: {', '.join(asked.get(wrong, ()))}")
    unknown = {word for words in logbook["verdicts"].values() for word in words.values()} - logbook["words"].keys()
    if unknown:
        raise UserError(f"{path}: {sorted(unknown)[0]} is none of its words; take {', '.join(logbook['words'])}")
    for name, badge in badges.items():
        if badge.get("given") not in GIVEN:
            raise UserError(f"{path}: {name}: given must be one of {', '.join(GIVEN)}")
    return Tracks(logbook["words"], logbook["verdicts"], badges, sources)


def has_doi(badge: Mapping[str, Any], audit: Mapping[str, Any], rates: Rates) -> bool:
    """Whether a release has a DOI, which the badge's entry then names."""
    return bool(badge["doi"])


def ran_whole(badge: Mapping[str, Any], audit: Mapping[str, Any], rates: Rates) -> bool:
    """Whether the default was run from nothing in a clone of its own, and timed."""
    return rates.whole is not None and "repro_s" in rates.whole


def headline_confirmed(badge: Mapping[str, Any], audit: Mapping[str, Any], rates: Rates) -> bool:
    """Whether every figure of the abstract is confirmed at the paper's own setting."""
    claims = [claim for claim in audit["claims"] if claim["id"].startswith(HEADLINE)]
    return bool(claims) and all((one["where"], one["verdict"]) == (PAPER, WORDS[PAPER].holds) for one in claims)


GIVEN: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], Rates], bool]] = {
    one.__name__: one for one in (has_doi, ran_whole, headline_confirmed)
}
