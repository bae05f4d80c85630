"""Dataset PCA: how many directions of one shared basis hold every image's energy (paper, dataset-level PCA)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.core.features.store import chunks


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
