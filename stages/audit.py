"""Audit every published claim against what was measured, by the current run and by every recorded study.

The run that is nearest to the paper's own setting decides; a claim is contradicted there if any run contradicts it.
Each verdict names its run and its scale. `python -m stages.tools.verdicts` fails if a claim is contradicted.
"""

import argparse

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import read_json, write_json
from stages.core.evidence import scales, studies
from stages.core.evidence.register import read_register
from stages.core.evidence.results import read_results
from stages.core.evidence.verdicts import judge_all
from stages.paths import AUDIT, MANIFEST, REFERENCE, RELEASED, RESULTS, STUDIES


def main() -> None:
    """Write reports/audit.json: counts of verdicts by scale, and every claim with its verdict."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # refuses any argument
    runs = {studies.CURRENT: read_results(RESULTS, MANIFEST)}
    runs |= {study.name: read_results(study.results, study.data) for study in studies.read(STUDIES)}
    released = read_json(RELEASED) if RELEASED.is_file() else {}
    claims = read_register(REFERENCE)
    messages.begin("audit", f"judges {len(claims)} claims by {len(runs)} reproductions")
    verdicts = [judge_all(claim, runs, released) for claim in claims]
    counts = scales.counts(verdicts)
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    messages.end("audit", f"of {len(verdicts)} published claims {scales.sentence(counts)}", AUDIT)


if __name__ == "__main__":
    run(main)
