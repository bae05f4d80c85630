"""Sample-wise SVD: how many dimensions one image's token matrix needs (paper, section on per-image rank)."""

import numpy as np

from stages.core.features.singular_values import squared_singular_values as energies

__all__ = ["energies", "numerical_rank"]


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
