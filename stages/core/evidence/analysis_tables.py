"""Tables of the analyses' results, from the folders of the stages svd, pca, sep and rotation.

Each of these folders holds one folder per backbone.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.analysis import nulls, participation
from stages.core.analysis.dims import CAPTURED, PERCENTILES, floors
from stages.core.base.arrays import read_npy
from stages.core.base.files import read_json
from stages.core.base.names import TEACHER


def by_backbone(folder: Path, backbones: Sequence[str]) -> dict[str, Any]:
    """Each backbone's metrics.json."""
    return {backbone: read_json(folder / backbone / "metrics.json") for backbone in backbones}


def by_name(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The JSON file of each name in a folder."""
    return {name: read_json(folder / f"{name}.json") for name in names}


def dims_table(svd: Path, pca: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """Dims of each image's last block, in its own basis (svd) and in the shared one (pca): a row per threshold."""
    parts = []
    for backbone in backbones:
        thresholds = read_json(svd / backbone / "metrics.json")["thresholds"]
        own = pd.DataFrame(read_npy(svd / backbone / "dims.npy")[-1], columns=thresholds)
        shared = pd.DataFrame(
            read_npy(pca / backbone / "dims.npy"),
            columns=read_json(pca / backbone / "metrics.json")["thresholds"],
        )
        both = pd.concat({"svd": own.stack(), "pca": shared.stack()}, axis=1).astype("Int64")
        both.index.names = ["image", "threshold"]
        parts.append(both.reset_index().assign(backbone=backbone))
    return pd.concat(parts)[["backbone", "image", "threshold", "svd", "pca"]]


def energy_table(svd: Path, pca: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """Cumulative energy share of the first `dims` dimensions, in each image's own basis (svd) and a shared one (pca).

    The mean over images, its percentiles (svd_p1: 99 % of the images have at least this share), and the share that
    the shared direction of this number has of all images' energy (eigenvalue).
    """
    parts = []
    for backbone in backbones:
        columns: dict[str, np.ndarray] = {}
        for name, folder in (("svd", svd), ("pca", pca)):
            columns[name] = read_npy(folder / backbone / "curve.npy")
            captured = read_npy(folder / backbone / "captured.npy")
            columns |= {f"{name}_p{percent}": of for percent, of in zip(CAPTURED, captured, strict=True)}
        eigenvalues = np.array(read_npy(pca / backbone / "eigenvalues.npy"))
        columns["eigenvalue"] = eigenvalues / (eigenvalues.sum() or 1.0)
        # fewer dimensions in an image's own basis, where it has fewer tokens than channels: their cells stay empty
        table = pd.DataFrame({name: pd.Series(np.array(of)) for name, of in columns.items()})
        table.insert(0, "dims", table.index + 1)
        table.insert(0, "backbone", backbone)
        parts.append(table)
    return pd.concat(parts)


def ranks_table(svd: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """How many images have each numerical rank of their last block's tokens."""
    parts = []
    for backbone in backbones:
        ranks, images = np.unique(read_npy(svd / backbone / "ranks.npy"), return_counts=True)
        parts.append(pd.DataFrame({"backbone": backbone, "rank": ranks, "images": images}))
    return pd.concat(parts)


def stage_dims_table(svd: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """How many images need each number of dims, for every block of the backbones whose blocks differ in shape.

    Those are models of stages (Swin, convolutional networks); of the others svd.json has each block's statistics.
    """
    columns = ["backbone", "block", "threshold", "dims", "images"]
    rows: list[tuple[str, int, int, int, int]] = []
    for backbone in backbones:
        metrics = read_json(svd / backbone / "metrics.json")
        if len({(block["tokens"], block["channels"]) for block in metrics["blocks"]}) == 1:
            continue
        of_blocks = read_npy(svd / backbone / "dims.npy")  # [blocks, images, thresholds]
        for (place, block), (column, threshold) in product(
            enumerate(metrics["blocks"]), enumerate(metrics["thresholds"])
        ):
            dims, images = np.unique(of_blocks[place, :, column], return_counts=True)
            rows += [(backbone, block["block"], threshold, *pair) for pair in zip(dims, images, strict=True)]
    return pd.DataFrame(rows, columns=columns)


def floor_table(svd: Path, pca: Path, encode: Path | None, backbones: Sequence[str]) -> pd.DataFrame:
    """The least relative error of a rank-d approximation: of one fixed projector, and of one for each image.

    With students the teacher's is of its tokens under their transform of images, so that it bounds what `encode`
    measures.

    Args:
        svd, pca: the folders of the stages of those names.
        encode: that of the stage of that name; None without students.
        backbones: the analysed ones.
    """
    found = {} if encode is None else {TEACHER: read_npy(encode / "floors.npy")}
    found |= {
        backbone: floors(read_npy(pca / backbone / "eigenvalues.npy"), read_npy(svd / backbone / "spectrum.npy"))
        for backbone in backbones
        if backbone not in found
    }
    parts = []
    for backbone, (fixed, per_image) in found.items():
        table = pd.DataFrame({"fixed": fixed, "per_image": per_image})
        parts.append(table.assign(backbone=backbone, dims=table.index + 1))
    return pd.concat(parts)[["backbone", "dims", "fixed", "per_image"]]


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


def truncation_table(truncation: Path, models: Sequence[str]) -> pd.DataFrame:
    """Top-1 of each model with its first `dims` dimensions kept, shared ones and each image's own."""
    parts = [pd.read_csv(truncation / name / "curve.csv").assign(backbone=name) for name in models]
    return pd.concat(parts)[["backbone", "dims", "shared", "own"]]


def sep_table(sep: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """SEP curves: observed with its standard deviation over tokens, under permuted channels, and of the other nulls."""
    parts = []
    for backbone, spectrum in product(backbones, ("full", "folded")):
        columns = ["observed", "permuted_mean", "permuted_p5", "permuted_p95"]
        table = pd.DataFrame(np.array(read_npy(sep / backbone / f"curve_{spectrum}.npy")).T, columns=columns)
        table["token_std"] = np.array(read_npy(sep / backbone / f"std_{spectrum}.npy"))
        table[list(nulls.EXPECTED)] = np.array(read_npy(sep / backbone / f"nulls_{spectrum}.npy")).T
        table.insert(0, "share_of_bins", (table.index + 1) / len(table))
        table.insert(0, "frequency", table.index + 1)
        table.insert(0, "spectrum", spectrum)
        table.insert(0, "backbone", backbone)
        parts.append(table)
    return pd.concat(parts)


def participation_table(pca: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """Percentiles over tokens of the participation ratio, observed and of Gaussian tokens."""
    parts = []
    for backbone in backbones:
        ratios = read_npy(pca / backbone / "participation.npy")
        for basis, (observed, gaussian) in zip(participation.BASES, ratios, strict=True):
            columns = {"percentile": PERCENTILES, "observed": observed, "gaussian": gaussian}
            parts.append(pd.DataFrame({"backbone": backbone, "basis": basis, **columns}))
    return pd.concat(parts)


def angles_table(rotation: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """Principal angles between subspaces in degrees, smallest first: mean, 5th and 95th percentile over pairs."""
    parts = []
    for backbone in backbones:
        kinds = read_json(rotation / backbone / "metrics.json")["kinds"]
        for kind, (mean, low, high) in zip(kinds, read_npy(rotation / backbone / "angles.npy"), strict=True):
            columns = {"angle": np.arange(len(mean)) + 1, "mean": mean, "p5": low, "p95": high}
            parts.append(pd.DataFrame({"backbone": backbone, "kind": kind, **columns}))
    return pd.concat(parts)


def overlap_table(rotation: Path, backbones: Sequence[str]) -> pd.DataFrame:
    """Percentiles over pairs of the overlap of subspaces."""
    parts = []
    for backbone in backbones:
        kinds = read_json(rotation / backbone / "metrics.json")["kinds"]
        for kind, overlap in zip(kinds, read_npy(rotation / backbone / "overlap.npy"), strict=True):
            columns = {"percentile": PERCENTILES, "overlap": overlap}
            parts.append(pd.DataFrame({"backbone": backbone, "kind": kind, **columns}))
    return pd.concat(parts)


def backbones_table(analyses: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per backbone in the columns of the paper's tables: dims at each threshold.

    svd_95 is the 99th percentile over images of the dimensions that hold 95 % of one image's energy, dataset_95 the
    same in the shared basis, sep_90 the number of frequencies at which the mean SEP curve (full spectrum) reaches 90 %.
    """
    rows = []
    for backbone, svd in analyses["svd"].items():
        pca, sep = analyses["pca"][backbone], analyses["sep"][backbone]
        rows.append(
            {
                "backbone": backbone,
                "timm": svd["architecture"],
                "weights": svd["weights"],
                "source": svd["source"],
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
