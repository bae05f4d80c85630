"""Collect every stage's metrics in small files that git tracks: reports/results and reports/metrics.json."""

import io
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core import nulls, params, participation
from stages.core.arrays import read_npy
from stages.core.comparison import comparison_table, nested_means, runs_table
from stages.core.dataset import labels, read_index
from stages.core.energy import PERCENTILES, floors
from stages.core.errors import UserError, run
from stages.core.files import atomic_folder, prune, read_json, write_json, write_text
from stages.core.names import TEACHER, run_name
from stages.core.statistics import differences_table
from stages.paths import (
    COST,
    ENCODE,
    EXTRACT,
    MANIFEST,
    PCA,
    REPORTS,
    RESULTS,
    ROTATION,
    SEP,
    SVD,
    TEACH,
    TRAIN,
    index_file,
)

OF_THE_MACHINE = ("train_images_per_s", "device")  # what git tracks is the same wherever it was computed


def by_backbone(folder: Path, backbones: Sequence[str]) -> dict[str, Any]:
    """Each backbone's metrics.json."""
    return {backbone: read_json(folder / backbone / "metrics.json") for backbone in backbones}


def dims_table(backbones: Sequence[str]) -> pd.DataFrame:
    """Dims of each image's last block: in its own basis (svd) and in the shared one (pca)."""
    parts = []
    for backbone in backbones:
        thresholds = read_json(SVD / backbone / "metrics.json")["thresholds"]
        own = pd.DataFrame(read_npy(SVD / backbone / "dims.npy")[-1], columns=thresholds)
        shared = pd.DataFrame(
            read_npy(PCA / backbone / "dims.npy"),
            columns=read_json(PCA / backbone / "metrics.json")["thresholds"],
        )
        both = pd.concat({"svd": own.stack(), "pca": shared.stack()}, axis=1).astype("Int64")
        both.index.names = ["image", "threshold"]
        parts.append(both.reset_index().assign(backbone=backbone))
    return pd.concat(parts)[["backbone", "image", "threshold", "svd", "pca"]]


def energy_table(backbones: Sequence[str]) -> pd.DataFrame:
    """Mean cumulative energy share of the first `dims` dimensions, per image (svd) and shared (pca)."""
    parts = []
    for backbone in backbones:
        curves = {
            name: pd.Series(np.array(read_npy(folder / backbone / "curve.npy")))
            for name, folder in (("svd", SVD), ("pca", PCA))
        }
        table = pd.DataFrame(curves)
        parts.append(table.assign(backbone=backbone, dims=table.index + 1))
    return pd.concat(parts)[["backbone", "dims", "svd", "pca"]]


def floor_table(backbones: Sequence[str]) -> pd.DataFrame:
    """The smallest relative error of a rank-d approximation: of one fixed projector, and of one for each image.

    The teacher's is of its tokens on the images as the students see them, so that what `encode` measures is above it.
    """
    found = {TEACHER: read_npy(ENCODE / "floors.npy")} | {
        backbone: floors(read_npy(PCA / backbone / "eigenvalues.npy"), read_npy(SVD / backbone / "spectrum.npy"))
        for backbone in backbones
        if backbone != TEACHER
    }
    parts = []
    for backbone, (fixed, per_image) in found.items():
        table = pd.DataFrame({"fixed": fixed, "per_image": per_image})
        parts.append(table.assign(backbone=backbone, dims=table.index + 1))
    return pd.concat(parts)[["backbone", "dims", "fixed", "per_image"]]


def sep_table(backbones: Sequence[str]) -> pd.DataFrame:
    """SEP curves, observed, under permuted channels and of the other nulls."""
    parts = []
    for backbone, spectrum in product(backbones, ("full", "folded")):
        columns = ["observed", "permuted_mean", "permuted_p5", "permuted_p95"]
        table = pd.DataFrame(np.array(read_npy(SEP / backbone / f"curve_{spectrum}.npy")).T, columns=columns)
        table[list(nulls.EXPECTED)] = np.array(read_npy(SEP / backbone / f"nulls_{spectrum}.npy")).T
        table.insert(0, "share_of_bins", (table.index + 1) / len(table))
        table.insert(0, "frequency", table.index + 1)
        table.insert(0, "spectrum", spectrum)
        table.insert(0, "backbone", backbone)
        parts.append(table)
    return pd.concat(parts)


def participation_table(backbones: Sequence[str]) -> pd.DataFrame:
    """Percentiles over tokens of the participation ratio, observed and of Gaussian tokens."""
    parts = []
    for backbone in backbones:
        ratios = read_npy(PCA / backbone / "participation.npy")
        for basis, (observed, gaussian) in zip(participation.BASES, ratios, strict=True):
            columns = {"percentile": PERCENTILES, "observed": observed, "gaussian": gaussian}
            parts.append(pd.DataFrame({"backbone": backbone, "basis": basis, **columns}))
    return pd.concat(parts)


def angles_table(backbones: Sequence[str]) -> pd.DataFrame:
    """Principal angles between subspaces in degrees, smallest first: mean and 5 % and 95 % percentiles over pairs."""
    parts = []
    for backbone in backbones:
        kinds = read_json(ROTATION / backbone / "metrics.json")["kinds"]
        for kind, (mean, low, high) in zip(kinds, read_npy(ROTATION / backbone / "angles.npy"), strict=True):
            columns = {"angle": np.arange(len(mean)) + 1, "mean": mean, "p5": low, "p95": high}
            parts.append(pd.DataFrame({"backbone": backbone, "kind": kind, **columns}))
    return pd.concat(parts)


def overlap_table(backbones: Sequence[str]) -> pd.DataFrame:
    """Percentiles over pairs of the overlap of subspaces."""
    parts = []
    for backbone in backbones:
        kinds = read_json(ROTATION / backbone / "metrics.json")["kinds"]
        for kind, overlap in zip(kinds, read_npy(ROTATION / backbone / "overlap.npy"), strict=True):
            columns = {"percentile": PERCENTILES, "overlap": overlap}
            parts.append(pd.DataFrame({"backbone": backbone, "kind": kind, **columns}))
    return pd.concat(parts)


def right_predictions(runs: pd.DataFrame) -> dict[str, np.ndarray]:
    """For each run, which validation images it classifies rightly, [images] of booleans.

    Raises:
        UserError: a run's predictions do not belong to its accuracy and the images.
    """
    truth = np.array(labels(read_index(index_file("val")), read_json(MANIFEST)["class_names"]))
    right = {}
    for name, top1 in zip(runs["run"], runs["top1"], strict=True):
        path = TRAIN / name / "predictions.npy"
        predicted = read_npy(path)
        if predicted.shape != truth.shape or abs(100 * (predicted == truth).mean() - top1) > 0.01:
            raise UserError(
                f"{path} does not fit the run's top-1 on these images; delete {TRAIN / name}, run `dvc repro`"
            )
        right[name] = predicted == truth
    return right


def backbones_table(analyses: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per backbone in the columns of the paper's tables: dims at each threshold.

    svd_95 is the 99th percentile over images of the dimensions that hold 95 % of one image's energy, dataset_95 that
    of the shared basis, sep_90 the frequencies at which the mean SEP curve (full spectrum) reaches 90 %.
    """
    rows = []
    for backbone, svd in analyses["svd"].items():
        pca, sep = analyses["pca"][backbone], analyses["sep"][backbone]
        rows.append(
            {
                "backbone": backbone,
                "timm": svd["architecture"],
                "weights": svd["weights"],
                "img_size": svd["input_size"][-1],
                "images": svd["images"],
                "tokens": svd["tokens"],
                "D": svd["channels"],
                **{f"svd_{level}": value for level, value in svd["dims_p99"].items()},
                **{f"dataset_{level}": value for level, value in pca["dims_p99"].items()},
                **{f"sep_{level}": value for level, value in sep["dims"].items()},
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Write the results that audit and report read, from the runs and backbones that params name."""
    given = params.load()
    keys = list(product(given.strategy.names, given.objective.names, given.seeds))
    names = [run_name(*key) for key in keys]
    backbones = list(given.analysis.backbones)
    prune(TRAIN, names)
    for folder in (EXTRACT, SVD, PCA, SEP, ROTATION):
        prune(folder, backbones)

    teacher = {name: value for name, value in read_json(TEACH / "metrics.json").items() if name not in OF_THE_MACHINE}
    folders = {"svd": SVD, "pca": PCA, "sep": SEP, "rotation": ROTATION}
    analyses = {name: by_backbone(folder, backbones) for name, folder in folders.items()}
    runs = runs_table([{"run": name, **read_json(TRAIN / name / "metrics.json")} for name in names])
    try:
        curves = pd.concat(
            [
                pd.read_csv(TRAIN / name / "curves.csv").assign(
                    run=name, strategy=strategy, objective=objective, seed=seed
                )
                for name, (strategy, objective, seed) in zip(names, keys, strict=True)
            ]
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro train` to make it") from None
    head = ["run", "strategy", "objective", "seed"]
    encoding = pd.DataFrame(read_json(ENCODE / "metrics.json")["runs"]).astype({"seed": "Int64"})
    tables = {
        "runs": runs,
        "comparison": comparison_table(runs, encoding),
        "differences": differences_table(runs, right_predictions(runs)),
        "curves": curves[head + [column for column in curves if column not in head]],
        "backbones": backbones_table(analyses),
        "dims": dims_table(backbones),
        "energy": energy_table(backbones),
        "floor": floor_table(backbones),
        "encoding": encoding[head + [column for column in encoding if column not in head]],
        "sep_curves": sep_table(backbones),
        "participation": participation_table(backbones),
        "angles": angles_table(backbones),
        "overlap": overlap_table(backbones),
    }
    with atomic_folder(RESULTS) as folder:
        for name, value in {**analyses, "teacher": teacher, "cost": read_json(COST / "metrics.json")}.items():
            write_json(folder / f"{name}.json", value)
        for name, table in tables.items():
            text = io.StringIO()
            table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
            write_text(folder / f"{name}.csv", text.getvalue())

    shown = TEACHER if TEACHER in backbones else backbones[0]
    headline = {
        "weights": {"teacher": teacher["weights"], shown: analyses["svd"][shown]["weights"]},
        "top1": {"teacher": round(teacher["top1"], 2), **nested_means(runs, "top1", 2)},
        "probe_error": nested_means(encoding[encoding["run"] != TEACHER], "probe_error", 3),
        "dims_p99": {name: {shown: analyses[name][shown]["dims_p99"].get("95")} for name in ("svd", "pca")},
    }
    write_json(REPORTS / "metrics.json", headline)


if __name__ == "__main__":
    run(main)
