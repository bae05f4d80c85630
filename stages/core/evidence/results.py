"""What a reproduction measured, as `summarize` wrote it."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.files import read_json

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
Run = Mapping[str, Any]  # a row of runs.csv; None where a cell is empty


@dataclass(frozen=True)
class Results:
    """What a reproduction measured, as `summarize` wrote it.

    Attributes:
        data: the manifest of its images.
        analyses: the contents of svd.json, pca.json and sep.json by "svd", "pca" and "sep".
        runs: one mapping per row of runs.csv.
        cost: architecture, parameters and FLOPs of the paper's students by strategy.
        teacher: the teacher's metrics.
        differences: one mapping per row of differences.csv.
        folder: where these results lie.
    """

    data: Mapping[str, Any]
    analyses: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Run]
    cost: Mapping[str, Mapping[str, Any]]
    teacher: Mapping[str, Any]
    differences: Sequence[Mapping[str, Any]] = ()
    folder: str = "reports/results"


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
