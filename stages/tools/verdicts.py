"""Fail if the audit contradicts a published claim: python -m stages.tools.verdicts [--known ID ...].

For continuous integration. Reads reports/audit.json and ends with exit status 1, and one line that names them, if
claims are contradicted that --known does not list. `dvc repro audit` brings the file up to date.
"""

import argparse

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json
from stages.core.evidence.verdicts import CONTRADICTED
from stages.paths import AUDIT


def main() -> None:
    """Compare the audit with the contradictions that the command line allows.

    Raises:
        UserError: the audit has other contradictions, or has no such claim as --known names.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--known", nargs="+", action="extend", default=[], metavar="ID", help="claims whose contradiction is known"
    )
    known = parser.parse_args().known
    verdicts = {claim["id"]: claim["verdict"] for claim in read_json(AUDIT)["claims"]}
    unknown = sorted(set(known) - verdicts.keys())
    if unknown:
        raise UserError(f"--known {' '.join(unknown)}: no such claim; {AUDIT} lists all of them")
    contradicted = [claim for claim, verdict in verdicts.items() if verdict == CONTRADICTED]
    new = [claim for claim in contradicted if claim not in known]
    if new:
        raise UserError(f"contradicted: {', '.join(new)}; see {AUDIT}, or list what is known after --known")
    print(f"{len(verdicts)} claims, {len(contradicted)} contradicted, all of them known")


if __name__ == "__main__":
    run(main)
