"""The analyses: one module of this wing each, by whose name stages and tables find it.

Such a module defines

* `Params`: the frozen section `analysis.NAME` of params.yaml;
* `PURPOSE`: what its stage begins with, with the names of settings in braces;
* `measure(source, settings)`: what it finds in the features of one backbone, a `Measured`;
* `columns(metrics)`: of backbones.csv, from its metrics;
* `tables(folder)`: the names and columns of its tables, from its results of one backbone. Parts of one name stand below
  each other; tables of one name, of several analyses, are joined on the columns that they share.

One of `OF_STUDENTS` also defines `of_map(tokens, settings)`: its columns of encoding.csv, from the tokens of one
model's last block. One of `OF_MODELS` measures models, not features: it has a stage module of its own, which says what
`measure` is given, and no columns.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from stages.core.base.arrays import write_npy
from stages.core.base.files import atomic_folder, write_json
from stages.core.config.schema import Count, Percent, Section, Seed

NAMES = ("svd", "pca", "sep", "rotation")  # in the order of their columns
OF_MODELS = ("truncation",)
OF_STUDENTS = ("svd", "pca", "sep")  # whose `thresholds`, `permutations` and `seed` are parameters of `encode`

Columns = dict[str, Any]  # of a table: arrays of one length, or a value that all rows have


@dataclass(frozen=True)
class Source:
    """What an analysis reads of one backbone.

    Attributes:
        features: the folder of its features; see `stages.core.features.store`.
        prepared: the folder of the index of the analysis sample; see `stages.core.data.splits`.
        results: from the name of another analysis to the folder of its results.
    """

    features: Path
    prepared: Path
    results: Callable[[str], Path]


@dataclass(frozen=True)
class Measured:
    """What an analysis finds.

    Attributes:
        metrics: of metrics.json, beside what describes the features.
        arrays: by the names of their files, without .npy.
        found: the line that the stage ends with.
    """

    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray]
    found: str

    def write(self, folder: Path, described: dict[str, Any]) -> None:
        """Write metrics.json, and a file for each array; the folder is written completely or not at all.

        Args:
            folder: one that exists is replaced.
            described: what metrics.json begins with: of which model this is.
        """
        with atomic_folder(folder) as temporary:
            for name, array in self.arrays.items():
                write_npy(temporary / f"{name}.npy", array)
            write_json(temporary / "metrics.json", described | self.metrics)


def _different(thresholds: list[int]) -> list[int]:
    if len(set(thresholds)) != len(thresholds):
        raise ValueError(f"{thresholds} has the same value twice")
    return thresholds


class Levels(Section):
    """Energy thresholds in percent, and how often the images are resampled, for bootstrap intervals over images."""

    thresholds: Annotated[list[Percent], Field(min_length=1), AfterValidator(_different)]
    resamples: Count
    seed: Seed


def load(name: str) -> Any:
    """The module of an analysis."""
    return importlib.import_module(f"stages.core.analysis.{name}")


def sections(*checked: str) -> dict[str, Any]:
    """The types of the sections of `analysis` in params.yaml, for `stages.core.config.params`.

    Args:
        checked: the analyses whose sections are checked, or none for all; those of others may hold anything, so that a
            stage imports no code of theirs.
    """
    known = (*NAMES, *OF_MODELS)
    return {name: load(name).Params if name in (checked or known) else Any for name in known}
