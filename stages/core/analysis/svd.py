"""Sample-wise SVD: how many dimensions one image's token matrix needs (paper, section on per-image rank)."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.analysis.dims import (
    dims,
    energy_columns,
    energy_dims,
    floor,
    image_columns,
    named,
    participation_ratio,
    profile,
    shares,
    statistics,
    statistics_of,
)
from stages.core.analysis.intervals import percentile_of_another_sample
from stages.core.analysis.registry import Columns, Levels, Measured, Source
from stages.core.base.arrays import read_npy
from stages.core.base.files import read_json
from stages.core.features.singular_values import squared_singular_values as energies
from stages.core.features.store import RECORD, blocks

__all__ = ["PURPOSE", "Params", "columns", "energies", "measure", "numerical_rank", "of_map", "tables"]

PURPOSE = "the dims that each image's tokens need, each image in a basis of its own"


class Params(Levels):
    """Sample-wise SVD."""


def measure(source: Source, settings: Params) -> Measured:
    """Dims per image and block; of the last block also ranks, energy curves and the mean spectrum."""
    thresholds = settings.thresholds
    shapes = read_json(source.features / RECORD)["blocks"]
    *earlier, (_, tokens) = blocks(source.features).items()
    by_block = [np.asarray(block) for _, block in earlier] + [energies(tokens)]
    profiles = [profile([block], thresholds) for block in by_block]
    last, (_, rows, channels) = profiles[-1], tokens.shape
    ranks = numerical_rank(by_block[-1], tokens=rows, channels=channels)
    metrics: dict[str, Any] = {
        "thresholds": thresholds,
        **statistics(last.dims, thresholds),
        "another_sample": percentile_of_another_sample(last.dims, thresholds, settings.resamples, settings.seed),
        "rank": statistics_of(ranks),
        "blocks": [
            {**shape, **statistics(block.dims, thresholds)} for shape, block in zip(shapes, profiles, strict=True)
        ],
    }
    arrays = {
        "dims": np.stack([block.dims for block in profiles]).astype(np.int32),  # [blocks, images, thresholds]
        "ranks": ranks.astype(np.int32),  # [images]
        "curve": last.curve,  # mean share of the first d dimensions
        "captured": last.captured,  # [percentiles over images, dimensions]
        "spectrum": last.spectrum,  # energy of each dimension, mean over images
    }
    return Measured(metrics, arrays, energy_dims(metrics["dims_p99"], channels))


def columns(metrics: dict[str, Any]) -> dict[str, float]:
    """per_image_95: the 99th percentile over images of the dimensions that hold 95 % of one image's energy."""
    return {f"per_image_{level}": value for level, value in metrics["dims_p99"].items()}


def tables(folder: Path) -> Iterator[tuple[str, Columns]]:
    """Dims of each image's last block, energy curves, least errors; how many images have each rank, or dims by block.

    The latter only of models of stages (Swin, convolutional networks), whose blocks differ in shape: of the others
    svd.json has each block's statistics.
    """
    metrics = read_json(folder / "metrics.json")
    thresholds, by_block = metrics["thresholds"], read_npy(folder / "dims.npy")
    yield "dims", image_columns("per_image", by_block[-1], thresholds)
    yield "energy", energy_columns("per_image", read_npy(folder / "curve.npy"), read_npy(folder / "captured.npy"))
    spectrum = floor(read_npy(folder / "spectrum.npy"), metrics["channels"])
    yield "floor", {"dims": np.arange(len(spectrum)) + 1, "per_image": spectrum}
    ranks, images = np.unique(read_npy(folder / "ranks.npy"), return_counts=True)
    yield "ranks", {"rank": ranks, "images": images}
    none = np.zeros(0, int)
    yield "stage_dims", dict.fromkeys(("block", "threshold", "dims", "images"), none)
    if len({(block["tokens"], block["channels"]) for block in metrics["blocks"]}) > 1:
        for (place, block), (column, threshold) in product(enumerate(metrics["blocks"]), enumerate(thresholds)):
            needed, images = np.unique(by_block[place, :, column], return_counts=True)
            yield "stage_dims", {"block": block["block"], "threshold": threshold, "dims": needed, "images": images}


def of_map(tokens: np.ndarray, settings: Params) -> dict[str, float]:
    """Of one model's last block: dims of the per-image basis, and the participation ratio of its spectrum.

    Args:
        tokens: [images, tokens, channels].
        settings: of the analysis.

    Returns:
        per_image_95, per_image_mean_95, …: the 99th percentile and the mean over images; participation_per_image, the
        mean over images.

    Raises:
        UserError: a feature is not finite.
    """
    own = energies(tokens)
    per_image = dims(shares(own), settings.thresholds)
    return {
        **named("per_image", np.percentile(per_image, 99, axis=0), settings.thresholds),
        **named("per_image_mean", per_image.mean(axis=0), settings.thresholds),
        "participation_per_image": float(participation_ratio(own).mean()),
    }


def numerical_rank(energies: np.ndarray, *, tokens: int, channels: int) -> np.ndarray:
    """Singular values of each image's float32 tokens that are larger than rounding alone would leave.

    The threshold is that of `numpy.linalg.matrix_rank`: max(tokens, channels) · ε of float32 · the largest singular
    value. The release counts σ > 1e-10 instead, which counts rounding too.

    Args:
        energies: squared singular values, [images, min(tokens, channels)].
        tokens, channels: of each image.

    Returns:
        [images], 0 for an image without energy.
    """
    resolution = max(tokens, channels) * np.finfo(np.float32).eps
    return np.count_nonzero(energies > resolution**2 * energies.max(axis=1, keepdims=True), axis=1)
