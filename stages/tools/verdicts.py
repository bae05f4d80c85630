"""Fail if the audit contradicts a published claim: python -m stages.tools.verdicts [--known ID ...] [--also SCALE ...].

With --format markdown or json it writes instead every claim with verdict, scale, value, evidence and cost, in the words
of reproducibility tracks (reports/reference/tracks.yaml), and fails at nothing.

For continuous integration. Reads reports/audit.json and ends with exit status 1, and one line that names them, if
claims are contradicted at the paper's own setting that --known does not list. What another sample, another scale or the
authors' weights show fails only where --also asks for it. `dvc repro audit` brings the file up to date.
"""

import argparse
import json
from typing import Any

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json
from stages.core.evidence.effort import read_commands, read_rates
from stages.core.evidence.register import read_register
from stages.core.evidence.scales import ELSEWHERE, PAPER, SAMPLE, WEIGHTS, WORDS
from stages.core.evidence.tracks import read_tracks
from stages.core.report.tables import logbook
from stages.paths import AUDIT, PERFORMANCE, REFERENCE, RESULTS

ALSO = {"weights": WEIGHTS, "sample": SAMPLE, "elsewhere": ELSEWHERE}


def failures(claim: dict[str, Any], scales: list[str]) -> list[str]:
    """How a claim of audit.json fails at any of some scales, by any run: the words of those verdicts."""
    found = [(one["where"], one["verdict"]) for one in (claim, *claim["others"]) if one["where"] in scales]
    return list(dict.fromkeys(verdict for where, verdict in found if verdict == WORDS[where].fails))


def listed() -> list[dict[str, Any]]:
    """Every claim of the audit, as `stages.core.report.tables.logbook.entries` gives it."""
    rates = read_rates(PERFORMANCE, RESULTS)
    measured_by = logbook.efforts(read_register(REFERENCE), read_commands(REFERENCE), rates)
    return logbook.entries(read_json(AUDIT), measured_by, read_tracks(REFERENCE))


def written(form: str) -> str:
    """Every claim as Markdown, or as JSON with the counts of the verdicts and of a logbook's words.

    Args:
        form: "markdown" or "json".
    """
    if form == "markdown":
        return logbook.markdown(listed())
    audit, tracks = read_json(AUDIT), read_tracks(REFERENCE)
    counts = {"verdicts": audit["counts"], "logbook": tracks.counts(audit["claims"])}
    return json.dumps({**counts, "claims": listed()}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def main() -> None:
    """Compare the audit with the failures that the command line allows.

    Raises:
        UserError: the audit has other failures, or has no such claim as --known names.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--known", nargs="+", action="extend", default=[], metavar="ID", help="claims whose failure is known"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        action="extend",
        default=[],
        choices=ALSO,
        help="further scales whose failures count: " + ", ".join(f"{name} ({where})" for name, where in ALSO.items()),
    )
    parser.add_argument("--format", choices=("markdown", "json"), help="write every claim, for a logbook")
    arguments = parser.parse_args()
    if arguments.format:
        print(written(arguments.format), end="")
        return
    scales = [PAPER, *(ALSO[name] for name in arguments.also)]
    claims = {claim["id"]: claim for claim in read_json(AUDIT)["claims"]}
    unknown = sorted(set(arguments.known) - claims.keys())
    if unknown:
        raise UserError(f"--known {' '.join(unknown)}: no such claim; {AUDIT} lists all of them")
    failed = [(word, name) for name, claim in claims.items() for word in failures(claim, scales)]
    by_word: dict[str, list[str]] = {}
    for word, name in failed:
        if name not in arguments.known:
            by_word.setdefault(word, []).append(name)
    if by_word:
        listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_word.items())
        raise UserError(f"{listed}; see {AUDIT}, or list what is known after --known")
    words = " or ".join(WORDS[where].fails for where in scales)
    print(f"{len(claims)} claims, {len({name for _, name in failed})} {words}, all of them known")


if __name__ == "__main__":
    run(main)
