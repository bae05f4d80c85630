"""Audit every published claim against what was measured, by the current run and by every recorded study.

A claim is contradicted if any of them contradicts it, and confirmed if at least one measured it and none contradicts
it; each verdict names the run it comes from. `--strict` fails where a claim is contradicted, for CI;
`--known ID` lets one pass that is known to be.
"""

import argparse
from collections import Counter

from stages.core.base.errors import UserError, run
from stages.core.base.files import write_json
from stages.core.evidence import studies
from stages.core.evidence.register import read_register
from stages.core.evidence.results import read_results
from stages.core.evidence.verdicts import CONFIRMED, CONTRADICTED, NOT_MEASURED, judge_all
from stages.paths import AUDIT, MANIFEST, REFERENCE, RESULTS, STUDIES


def main() -> None:
    """Write reports/audit.json: counts of verdicts, and every claim with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a claim is contradicted")
    parser.add_argument("--known", action="append", default=[], metavar="ID", help="a contradiction not to fail for")
    arguments = parser.parse_args()
    runs = {studies.CURRENT: read_results(RESULTS, MANIFEST)}
    runs |= {study.name: read_results(study.results, study.data) for study in studies.read(STUDIES)}
    claims = read_register(REFERENCE)
    verdicts = [judge_all(claim, runs) for claim in claims]
    counted = Counter(verdict["verdict"] for verdict in verdicts)
    counts = {verdict: counted[verdict] for verdict in (CONFIRMED, CONTRADICTED, NOT_MEASURED)}
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    unknown = sorted(set(arguments.known) - {claim.id for claim in claims})
    if unknown:
        raise UserError(f"--known {unknown[0]}: there is no such claim; {AUDIT} names them all")
    contradicted = [verdict["id"] for verdict in verdicts if verdict["verdict"] == CONTRADICTED]
    new = [name for name in contradicted if name not in arguments.known]
    if arguments.strict and new:
        raise UserError(f"contradicted: {', '.join(new)}; see {AUDIT}")


if __name__ == "__main__":
    run(main)
