"""Tables of what the analyses found, from the folders of their stages, each of which holds a folder per backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.analysis import registry
from stages.core.base.arrays import read_npy
from stages.core.base.files import read_json
from stages.core.base.names import TEACHER


def by_backbone(folder: Path, backbones: Sequence[str]) -> dict[str, Any]:
    """Each backbone's metrics.json."""
    return {backbone: read_json(folder / backbone / "metrics.json") for backbone in backbones}


def by_name(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The JSON file of each name in a folder."""
    return {name: read_json(folder / f"{name}.json") for name in names}


def of_analyses(folders: Mapping[str, Path], backbones: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables of some analyses, as `stages.core.analysis.registry` says.

    Args:
        folders: by analysis, of the stage of that name.
        backbones: the backbones or other models that they analysed.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    for backbone in backbones:
        joined: dict[str, pd.DataFrame] = {}
        for name, folder in folders.items():
            parts: dict[str, list[pd.DataFrame]] = {}
            for table, columns in registry.load(name).tables(folder / backbone):
                parts.setdefault(table, []).append(pd.DataFrame(columns))
            for table, frames in parts.items():
                rows = pd.concat(frames)
                joined[table] = joined[table].merge(rows, how="outer") if table in joined else rows
        for table, rows in joined.items():
            rows.insert(0, "backbone", backbone)
            tables.setdefault(table, []).append(rows)
    return {table: pd.concat(rows) for table, rows in tables.items()}


def with_teachers_floor(floor: pd.DataFrame, floors: np.ndarray) -> pd.DataFrame:
    """floor.csv with the teacher's errors under the students' transform of images, which bound what `encode` measures.

    Args:
        floor: of the analysed backbones; columns backbone, dims, and the least relative error of a rank-d approximation
            by one projector that all images share and by one for each image.
        floors: those of the teacher, [(shared, per image), channels].
    """
    teacher = pd.DataFrame(floors.T, columns=["shared", "per_image"]).rename_axis("dims").reset_index()
    teacher = teacher.assign(backbone=TEACHER, dims=teacher["dims"] + 1)
    return pd.concat([teacher[list(floor)], floor[floor["backbone"] != TEACHER]])


def cka_table(encode: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """CKA of every block of each student with every block of the teacher; blocks count from 0.

    Args:
        encode: the folder of the stage of that name.
        runs: runs.csv.
    """
    parts = []
    for row in runs[["run", "strategy", "objective", "seed"]].to_dict("records"):
        cka = read_npy(encode / f"cka-{row['run']}.npy")
        blocks, teacher_blocks = np.indices(cka.shape)
        columns = {"block": blocks.ravel(), "teacher_block": teacher_blocks.ravel(), "cka": cka.ravel()}
        parts.append(pd.DataFrame(columns).assign(**{str(key): value for key, value in row.items()}))
    return pd.concat(parts)[["run", "strategy", "objective", "seed", "block", "teacher_block", "cka"]]


def backbones_table(analyses: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per backbone in the columns of the paper's tables.

    Args:
        analyses: by name, each backbone's metrics.
    """
    rows = []
    for backbone, described in next(iter(analyses.values())).items():
        row = {
            "backbone": backbone,
            "timm": described["architecture"],
            "weights": described["weights"],
            "source": described["source"],
            "img_size": described["input_size"][-1],
            "images": described["images"],
            "tokens": described["tokens"],
            "D": described["channels"],
        }
        for name, metrics in analyses.items():
            row |= registry.load(name).columns(metrics[backbone])
        rows.append(row)
    return pd.DataFrame(rows)
