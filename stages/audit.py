"""Audit every published claim against what was measured; `--strict` fails where a claim is contradicted."""

import argparse
import csv
from collections import Counter

from stages.core.claims import CONFIRMED, CONTRADICTED, NOT_MEASURED, Results, expand, judge
from stages.core.errors import UserError, run
from stages.core.files import read_json, read_yaml, write_json
from stages.paths import AUDIT, MANIFEST, REFERENCE, RESULTS


def read_results() -> Results:
    """What `summarize` wrote, with the runs' numbers as numbers."""
    path = RESULTS / "runs.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro summarize` to make it")
    with path.open(encoding="utf-8", newline="") as file:
        runs = list(csv.DictReader(file))
    for entry in runs:
        entry |= {"top1": float(entry["top1"]), "width": int(entry["width"])}
    return Results(
        dataset=read_json(MANIFEST)["dataset"],
        analyses={name: read_json(RESULTS / f"{name}.json") for name in ("svd", "pca", "sep")},
        runs=runs,
        cost=read_json(RESULTS / "cost.json"),
        teacher=read_json(RESULTS / "teacher.json"),
    )


def main() -> None:
    """Write reports/audit.json: counts of verdicts, and every claim with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a claim is contradicted")
    strict = parser.parse_args().strict
    results = read_results()
    claims = expand(read_yaml(REFERENCE / "claims.yaml"), read_yaml(REFERENCE / "paper.yaml"))
    verdicts = [judge(claim, results) for claim in claims]
    counted = Counter(verdict["verdict"] for verdict in verdicts)
    counts = {verdict: counted[verdict] for verdict in (CONFIRMED, CONTRADICTED, NOT_MEASURED)}
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    if strict and counts[CONTRADICTED]:
        contradicted = [verdict["id"] for verdict in verdicts if verdict["verdict"] == CONTRADICTED]
        raise UserError(f"{len(contradicted)} claims are contradicted: {', '.join(contradicted)}; see {AUDIT}")


if __name__ == "__main__":
    run(main)
