"""Dataset PCA: how many directions of one shared basis hold every image's energy (paper, dataset-level PCA).

And over how many of these directions single tokens spread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.analysis import participation
from stages.core.analysis.dims import (
    PERCENTILES,
    by_threshold,
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
)
from stages.core.analysis.intervals import percentile_of_another_sample
from stages.core.analysis.nulls import fit_gaussian
from stages.core.analysis.registry import Columns, Levels, Measured, Source
from stages.core.base.arrays import read_npy
from stages.core.base.files import read_json
from stages.core.config.schema import Count
from stages.core.features.store import chunks, last_block

PURPOSE = "the dims that each image's tokens need in the basis that all images share"


class Params(Levels):
    """Dataset PCA, and single tokens in its basis beside Gaussian tokens."""

    gaussian_tokens: Count


def measure(source: Source, settings: Params) -> Measured:
    """Dims per image and token in the shared basis, the global dims, participation ratios, and energy curves."""
    thresholds = settings.thresholds
    tokens = last_block(source.features)
    channels = tokens.shape[2]
    eigenvalues, basis = principal_directions(tokens)
    images = profile(energies_along(basis, tokens), thresholds)
    drawn = participation.gaussian_spreads(
        fit_gaussian(tokens), basis, thresholds, tokens=settings.gaussian_tokens, seed=settings.seed
    )
    observed, gaussian = (
        participation.count(spreads, channels, thresholds)
        for spreads in (participation.token_spreads(tokens, basis, thresholds), drawn)
    )
    metrics: dict[str, Any] = {
        "thresholds": thresholds,
        **statistics(images.dims, thresholds),
        "another_sample": percentile_of_another_sample(images.dims, thresholds, settings.resamples, settings.seed),
        "dims_global": by_threshold(dims(shares(eigenvalues), thresholds), thresholds),
        **participation.spread_metrics(observed, gaussian, thresholds),
    }
    arrays = {
        "dims": images.dims.astype(np.int32),  # [images, thresholds]
        "curve": images.curve,  # mean share of the first d directions
        "captured": images.captured,  # [percentiles over images, directions]
        "eigenvalues": eigenvalues,
        "basis": basis,  # [channels, directions]
        # percentiles 0 … 100 over tokens, [participation.BASES, (observed, gaussian), 101]
        "participation": participation.ratio_percentiles(observed, gaussian),
    }
    return Measured(metrics, arrays, energy_dims(metrics["dims_p99"], channels))


def columns(metrics: dict[str, Any]) -> dict[str, float]:
    """shared_95: the 99th percentile over images of the shared dimensions that hold 95 % of an image's energy."""
    return {f"shared_{level}": value for level, value in metrics["dims_p99"].items()}


def tables(folder: Path) -> Iterator[tuple[str, Columns]]:
    """Dims of each image's last block, energy curves and least errors in the shared basis; participation ratios.

    `eigenvalue` is the share that the shared direction of this number has of all images' energy.
    """
    thresholds = read_json(folder / "metrics.json")["thresholds"]
    yield "dims", image_columns("shared", read_npy(folder / "dims.npy"), thresholds)
    eigenvalues = np.array(read_npy(folder / "eigenvalues.npy"))
    curves = energy_columns("shared", read_npy(folder / "curve.npy"), read_npy(folder / "captured.npy"))
    yield "energy", {**curves, "eigenvalue": eigenvalues / (eigenvalues.sum() or 1.0)}
    yield "floor", {"dims": np.arange(len(eigenvalues)) + 1, "shared": floor(eigenvalues, len(eigenvalues))}
    ratios = read_npy(folder / "participation.npy")
    for basis, (observed, gaussian) in zip(participation.BASES, ratios, strict=True):
        yield (
            "participation",
            {"basis": basis, "percentile": PERCENTILES, "observed": observed, "gaussian": gaussian},
        )


def of_map(tokens: np.ndarray, settings: Params) -> dict[str, float]:
    """Of one model's last block: dims of the shared basis, and the participation ratio of its spectrum.

    Args:
        tokens: [images, tokens, channels].
        settings: of the analysis.

    Returns:
        shared_95, shared_global_95, …: the 99th percentile over images, and the number for all images together;
        participation_shared.

    Raises:
        UserError: a feature is not finite.
    """
    shared, thresholds = shared_basis(tokens), settings.thresholds
    per_image = dims(shares(shared.energies), thresholds)
    return {
        **named("shared", np.percentile(per_image, 99, axis=0), thresholds),
        **named("shared_global", dims(shares(shared.eigenvalues), thresholds), thresholds),
        "participation_shared": float(participation_ratio(shared.eigenvalues)),
    }


@dataclass(frozen=True)
class SharedBasis:
    """The principal directions of all tokens of a dataset, and each image's energy along them.

    Attributes:
        eigenvalues: of C = (1/T) Σ XᵢᵀXᵢ over all T tokens, not centred, largest first, [channels].
        basis: the eigenvectors, one a column, [channels, channels].
        energies: ‖Xᵢ v_k‖² of each image along each direction, [images, channels].
    """

    eigenvalues: np.ndarray
    basis: np.ndarray
    energies: np.ndarray


def principal_directions(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a `SharedBasis`, in one pass over the features.

    Args:
        features: [images, tokens, channels].

    Raises:
        UserError: a feature is not finite.
    """
    images, tokens, channels = features.shape
    moment = np.zeros((channels, channels))
    for chunk in chunks(features):
        flat = chunk.reshape(-1, channels)
        moment += flat.T @ flat
    eigenvalues, vectors = np.linalg.eigh(moment / (images * tokens))
    return np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]


def energies_along(basis: np.ndarray, features: np.ndarray) -> Iterator[np.ndarray]:
    """‖Xᵢ v_k‖², a chunk of images at a time, [images of the chunk, channels].

    Raises:
        UserError: a feature is not finite.
    """
    for chunk in chunks(features):
        yield np.square(chunk @ basis).sum(axis=1)


def shared_basis(features: np.ndarray) -> SharedBasis:
    """Fit one basis to all images' tokens and project each image on it, in two passes over the features.

    Args:
        features: [images, tokens, channels].

    Raises:
        UserError: a feature is not finite.
    """
    eigenvalues, basis = principal_directions(features)
    return SharedBasis(eigenvalues, basis, np.concatenate(list(energies_along(basis, features))))
