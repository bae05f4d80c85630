"""What a reproduction measured, as `summarize` wrote it."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.applied import APPLIED_COLUMNS, with_applied

TEXT_COLUMNS = ("run", "strategy", "objective", "architecture")  # of runs.csv and curves.csv: text, whatever it says
DIFFERENCE_NUMBERS = ("difference", "low", "high", "equal_variances_p")
Run = Mapping[str, Any]  # a row of runs.csv; None where a cell is empty


@dataclass(frozen=True)
class Results:
    """What a reproduction measured, as `summarize` wrote it.

    Attributes:
        data: the manifest of its images.
        analyses: the contents of svd.json, pca.json and sep.json by "svd", "pca" and "sep".
        runs: one mapping per row of runs.csv, with how far each feature loss moved the features as far as that was
            recorded; empty without students.
        cost: architecture, parameters and FLOPs of the paper's students by strategy.
        teacher: the teacher's metrics; empty without one.
        differences: one mapping per row of differences.csv.
        curves: one mapping per row of curves.csv: a run's validation metrics after an epoch, counted from 0.
        folder: where these results lie.
    """

    data: Mapping[str, Any]
    analyses: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Run]
    cost: Mapping[str, Mapping[str, Any]]
    teacher: Mapping[str, Any]
    differences: Sequence[Mapping[str, Any]] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    folder: str = "reports/results"


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file of results.

    Raises:
        UserError: the file is missing or is not a table.
    """
    try:
        # "none" is an objective and stays text; only an empty cell is a missing value
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:
        raise UserError(f"{path} is not a table ({error}); delete it and run `dvc repro`") from None


def cell(value: Any) -> Any:
    """A setting as a cell of runs.csv: lists, mappings and booleans as JSON, which `read_runs` reads back."""
    structured = isinstance(value, Mapping | list | tuple | bool)
    return json.dumps(value, sort_keys=True) if structured else value


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The rows of runs.csv or curves.csv: cells are text, or JSON where they can be; None where they are empty."""
    return _read_rows(path, dict.fromkeys(TEXT_COLUMNS, str), _value, None)


def read_results(folder: Path, manifest: Path) -> Results:
    """What `summarize` wrote in a folder, with the runs' numbers as numbers; what was not measured is empty.

    Raises:
        UserError: there is neither an analysis nor a run.
    """
    tables = {name: folder / f"{name}.csv" for name in ("runs", "differences", "curves")}
    parts = {name: folder / f"{name}.json" for name in ("svd", "pca", "sep", "cost", "teacher")}
    if not (tables["runs"].is_file() or parts["svd"].is_file()):
        raise UserError(f"{tables['runs']} and {parts['svd']} are missing; run `dvc repro summarize` to make them")
    read = {name: read_json(path) if path.is_file() else {} for name, path in parts.items()}
    return Results(
        data=read_json(manifest),
        analyses={name: read[name] for name in ("svd", "pca", "sep")},
        runs=_with_applied(folder, read_runs(tables["runs"])) if tables["runs"].is_file() else [],
        cost=read["cost"],
        teacher=read["teacher"],
        differences=_read_rows(tables["differences"], dict.fromkeys(DIFFERENCE_NUMBERS, float), str, math.nan)
        if tables["differences"].is_file()
        else [],
        curves=read_runs(tables["curves"]) if tables["curves"].is_file() else [],
        folder=folder.as_posix(),
    )


def _with_applied(folder: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs with how far each feature loss moved features, as far as that is known where it was not yet recorded."""
    tables = [folder / f"{name}.csv" for name in ("encoding", "floor")]
    if not runs or APPLIED_COLUMNS[0] in runs[0] or not all(table.is_file() for table in tables):
        return runs
    found = with_applied(pd.DataFrame(runs), *map(read_table, tables))
    columns = found[list(APPLIED_COLUMNS)].astype(object).where(found[list(APPLIED_COLUMNS)].notna(), None)
    return [run | dict(row) for run, row in zip(runs, columns.to_dict("records"), strict=True)]  # type: ignore[misc]


def _read_rows(
    path: Path, kinds: Mapping[str, Callable[[str], Any]], other: Callable[[str], Any], empty: Any
) -> list[dict[str, Any]]:
    """The rows of a CSV file, converted by column or by `other`; `empty` stands for an empty cell."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: kinds.get(name, other)(text) if text else empty for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
