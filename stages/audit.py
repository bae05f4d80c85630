"""Audit every published claim against what was measured, by the current run and by every recorded study.

A claim is contradicted if any of them contradicts it, and confirmed if at least one measured it and none contradicts
it; each verdict names the run it comes from. `python -m stages.tools.verdicts` fails if a claim is contradicted.
"""

import argparse
from collections import Counter

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import write_json
from stages.core.evidence import studies
from stages.core.evidence.register import read_register
from stages.core.evidence.results import read_results
from stages.core.evidence.verdicts import CONFIRMED, CONTRADICTED, NOT_MEASURED, judge_all
from stages.paths import AUDIT, MANIFEST, REFERENCE, RESULTS, STUDIES


def main() -> None:
    """Write reports/audit.json: counts of verdicts, and every claim with its verdict."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # refuses any argument
    runs = {studies.CURRENT: read_results(RESULTS, MANIFEST)}
    runs |= {study.name: read_results(study.results, study.data) for study in studies.read(STUDIES)}
    claims = read_register(REFERENCE)
    messages.begin("audit", f"judges {len(claims)} published claims by {len(runs)} reproductions")
    verdicts = [judge_all(claim, runs) for claim in claims]
    counted = Counter(verdict["verdict"] for verdict in verdicts)
    counts = {verdict: counted[verdict] for verdict in (CONFIRMED, CONTRADICTED, NOT_MEASURED)}
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    messages.end("audit", f"of {len(claims)} published claims {found}", AUDIT)


if __name__ == "__main__":
    run(main)
