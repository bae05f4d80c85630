"""Tables of what a narrow student can reach, and of how trained students encode images beside their teacher."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from stages.core.analysis.dims import dims
from stages.core.base.names import TEACHER
from stages.core.report.tables.distillation import with_std


def widths(floors: pd.DataFrame, levels: Sequence[int] = (80, 90, 95, 99)) -> pd.DataFrame:
    """The least width that holds each share of a backbone's energy: for one shared projector (for one per image).

    Args:
        floors: floor.csv.
        levels: percents.
    """
    rows = []
    for backbone, of in floors.groupby("backbone", sort=False):
        shared, per_image = dims(1 - of[["shared", "per_image"]].to_numpy().T, levels)
        cells = (f"{common} ({own})" for common, own in zip(shared, per_image, strict=True))
        rows.append(
            {"backbone": backbone, "D": len(of)} | dict(zip((f"{level} %" for level in levels), cells, strict=True))
        )
    return pd.DataFrame(rows)


def needed(floors: pd.DataFrame, level: int) -> tuple[int, int]:
    """The directions that hold a share of the energy of all the teacher's images: per-image and shared ones.

    Args:
        floors: floor.csv.
        level: the share, in percent.
    """
    teacher = floors[floors["backbone"] == TEACHER]
    per_image, shared = dims(1 - teacher[["per_image", "shared"]].to_numpy().T, [level])[:, 0]
    return int(per_image), int(shared)


def teacher_width(floors: pd.DataFrame) -> int:
    """The channels of the teacher, from floor.csv."""
    return int((floors["backbone"] == TEACHER).sum())


def premise(floors: pd.DataFrame, encoding: pd.DataFrame) -> str:
    """Whether the paper's premise holds: the teacher needs more directions than its narrowest student has channels.

    Args:
        floors: floor.csv.
        encoding: encoding.csv.
    """
    per_image, shared = needed(floors, 95)
    width = int(encoding[encoding["strategy"] != TEACHER]["width"].min())
    text = (
        f"For 95 % of the energy of all images together the teacher needs {per_image} of {teacher_width(floors)} "
        f"directions where each image has its own, and {shared} that all share; the narrowest student's map has "
        f"{width} channels. "
    )
    if shared > width:
        return text + "The premise of the paper, low rank within an image and a mismatch over all of them, holds here."
    floor = floors[floors["backbone"] == TEACHER]["shared"].iloc[width - 1]
    return text + (
        "So the mismatch of widths from which the paper starts is not there at this scale: one shared projector from "
        f"{width} channels need not lose more than {floor:.2g} of the energy."
    )


def encodings(rows: pd.DataFrame) -> pd.DataFrame:
    """encoding.csv as means over seeds by strategy and objective, with the teacher first.

    Args:
        rows: encoding.csv.
    """
    heads = {
        "width": "width",
        "rank": "rank at most",
        "cka": "CKA",
        "probe_error": "best projector's error",
        "relative_feature_error": "feature error",
        "participation_per_image": "participation ratio, one image",
        "participation_shared": "participation ratio, all images",
    }
    for kind, name in (
        ("per_image_mean", "per-image dims, mean"),
        ("shared_global", "shared dims"),
        ("bandwidth_folded", "SEP bandwidth, folded"),
    ):
        level = threshold(rows.columns, kind)
        heads[f"{kind}_{level}"] = f"{name}, {level} %"
    means = rows.fillna({"objective": "–"}).groupby(["strategy", "objective"], sort=False)[list(heads)].mean()
    return means.round(3).rename(columns=heads).reset_index()


def threshold(columns: Iterable[str], kind: str) -> int:
    """The measured threshold to show of a kind of column: the nearest to the paper's 95 %, or 90 % for SEP."""
    found = (re.fullmatch(rf"{kind}_(\d+)", column) for column in columns)
    shown = 90 if kind.startswith("bandwidth") else 95
    return min((int(match[1]) for match in found if match), key=lambda level: abs(level - shown))


def spectral_against_mse(rows: pd.DataFrame, comparisons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The spectral loss beside mse on the trained students' maps, and the accuracy that each leads to.

    Args:
        rows: encoding.csv of the current run.
        comparisons: comparison.csv by where it is from, that of the current run first.

    Returns:
        A row for each strategy and source: ratio of the losses, the bounds of any such ratio, and cosine of their
        gradients (lowest and highest of the current run's students, whatever their objective), top-1 with either loss
        where it was trained.
    """
    trained = {objective for table in comparisons.values() for objective in table["objective"]}
    shown = ["mse", "spectral", *(name for name in ("softkd_mse", "softkd_spectral") if name in trained)]
    found = []
    for place, (source, table) in enumerate(comparisons.items()):
        top1 = table.set_index(["strategy", "objective"])
        for strategy in dict.fromkeys(table["strategy"]):
            row: dict[str, Any] = {"from": source, "strategy": strategy}
            maps = rows[rows["strategy"] == strategy] if place == 0 else rows[:0]
            for lowest, highest, name, digits in (
                ("spectral_over_mse", "spectral_over_mse", "spectral loss / mse", 3),
                ("spectral_over_mse_least", "spectral_over_mse_most", "bounds of it", 3),
                ("gradient_cosine", "gradient_cosine", "cosine of their gradients", 4),
            ):
                least, most = maps[lowest].min(), maps[highest].max()  # NaN where no student has a target
                row[name] = None if pd.isna(least) else f"{least:.{digits}f} – {most:.{digits}f}"
            for objective in shown:
                known = (strategy, objective) in top1.index
                reached = top1.loc[(strategy, objective)] if known else None
                row[f"top-1 with {objective}, %"] = (
                    with_std(reached["top1_mean"], reached["top1_std"], 2) if reached is not None else None
                )
            found.append(row)
    return pd.DataFrame(found)
