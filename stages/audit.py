"""Audit every published claim against what was measured, by the current run and by every recorded study.

A claim is contradicted if any of them contradicts it, and confirmed if at least one measured it and none contradicts
it; each verdict names the run it comes from. `--strict` fails where a claim is contradicted, for CI;
`--known ID` lets one pass that is known to be.
"""

import argparse
import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.core import studies
from stages.core.claims import CONFIRMED, CONTRADICTED, NOT_MEASURED, expand, judge_all
from stages.core.errors import UserError, run
from stages.core.files import read_json, read_yaml, write_json
from stages.core.needs import Results
from stages.paths import AUDIT, MANIFEST, REFERENCE, RESULTS, STUDIES

# Columns of runs.csv that the audit reads as something else than text.
INTEGERS = ("width", "teacher_width", "epochs", "epoch_steps", "global_batch", "warmup_epochs", "repeats")
NUMBERS = (
    *("top1", "alpha", "tau", "feature_weight", "lr", "weight_decay", "warmup_lr", "min_lr", "label_smoothing"),
    *("clip_grad", "random_erasing"),
)
RUN_KINDS: dict[str, Callable[[str], Any]] = {
    "model_args": json.loads,
    **dict.fromkeys(INTEGERS, int),
    **dict.fromkeys(NUMBERS, float),
}


def read_rows(path: Path, kinds: dict[str, Callable[[str], Any]], empty: Any) -> list[dict[str, Any]]:
    """The rows of a CSV file, with some columns converted; what an empty cell stands for is `empty`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: kinds.get(name, str)(text) if text else empty for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def read_results(folder: Path, manifest: Path) -> Results:
    """What `summarize` wrote in a folder, with the runs' numbers as numbers."""
    if not (folder / "runs.csv").is_file():
        raise UserError(f"{folder / 'runs.csv'} is missing; run `dvc repro summarize` to make it")
    differences = folder / "differences.csv"  # a study from before there was one has none
    return Results(
        data=read_json(manifest),
        analyses={name: read_json(folder / f"{name}.json") for name in ("svd", "pca", "sep")},
        runs=read_rows(folder / "runs.csv", RUN_KINDS, None),
        cost=read_json(folder / "cost.json"),
        teacher=read_json(folder / "teacher.json"),
        differences=read_rows(differences, dict.fromkeys(("difference", "low", "high"), float), math.nan)
        if differences.is_file()
        else [],
        folder=folder.as_posix(),
    )


def main() -> None:
    """Write reports/audit.json: counts of verdicts, and every claim with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a claim is contradicted")
    parser.add_argument("--known", action="append", default=[], metavar="ID", help="a contradiction not to fail for")
    given = parser.parse_args()
    runs = {studies.CURRENT: read_results(RESULTS, MANIFEST)}
    runs |= {study.name: read_results(study.results, study.data) for study in studies.read(STUDIES)}
    claims = expand(read_yaml(REFERENCE / "claims.yaml"), read_yaml(REFERENCE / "paper.yaml"))
    verdicts = [judge_all(claim, runs) for claim in claims]
    counted = Counter(verdict["verdict"] for verdict in verdicts)
    counts = {verdict: counted[verdict] for verdict in (CONFIRMED, CONTRADICTED, NOT_MEASURED)}
    write_json(AUDIT, {"counts": counts, "claims": verdicts})
    unknown = sorted(set(given.known) - {claim.id for claim in claims})
    if unknown:
        raise UserError(f"--known {unknown[0]}: there is no such claim; {AUDIT} names them all")
    contradicted = [verdict["id"] for verdict in verdicts if verdict["verdict"] == CONTRADICTED]
    new = [name for name in contradicted if name not in given.known]
    if given.strict and new:
        raise UserError(f"contradicted: {', '.join(new)}; see {AUDIT}")


if __name__ == "__main__":
    run(main)
