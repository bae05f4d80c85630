"""Audit every published claim against what was measured, by the current run and by every recorded study.

A claim is contradicted if any of them contradicts it, and confirmed if at least one measured it and none contradicts
it; each verdict names the run it comes from. `--strict` fails where a claim is contradicted.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

from stages.core import studies
from stages.core.claims import CONFIRMED, CONTRADICTED, NOT_MEASURED, Results, expand, judge_all
from stages.core.errors import UserError, run
from stages.core.files import read_json, read_yaml, write_json
from stages.paths import AUDIT, MANIFEST, REFERENCE, RESULTS, STUDIES


def read_results(folder: Path, manifest: Path) -> Results:
    """What `summarize` wrote in a folder, with the runs' numbers as numbers."""
    path = folder / "runs.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro summarize` to make it")
    with path.open(encoding="utf-8", newline="") as file:
        runs = list(csv.DictReader(file))
    for entry in runs:
        entry |= {"top1": float(entry["top1"]), "width": int(entry["width"])}
    return Results(
        dataset=read_json(manifest)["dataset"],
        analyses={name: read_json(folder / f"{name}.json") for name in ("svd", "pca", "sep")},
        runs=runs,
        cost=read_json(folder / "cost.json"),
        teacher=read_json(folder / "teacher.json"),
    )


def main() -> None:
    """Write reports/audit.json: counts of verdicts, and every claim with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a claim is contradicted")
    strict = parser.parse_args().strict
    runs = {studies.CURRENT: read_results(RESULTS, MANIFEST)}
    runs |= {study.name: read_results(study.results, study.data) for study in studies.read(STUDIES)}
    claims = expand(read_yaml(REFERENCE / "claims.yaml"), read_yaml(REFERENCE / "paper.yaml"))
    verdicts = [judge_all(claim, runs) for claim in claims]
    counted = Counter(verdict["verdict"] for verdict in verdicts)
    counts = {verdict: counted[verdict] for verdict in (CONFIRMED, CONTRADICTED, NOT_MEASURED)}
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    if strict and counts[CONTRADICTED]:
        contradicted = [verdict["id"] for verdict in verdicts if verdict["verdict"] == CONTRADICTED]
        raise UserError(f"{len(contradicted)} claims are contradicted: {', '.join(contradicted)}; see {AUDIT}")


if __name__ == "__main__":
    run(main)
