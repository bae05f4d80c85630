"""Squared singular values of token matrices: all that the sample-wise SVD needs of a block."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from stages.core.features.store import chunks
from stages.core.runtime.machine import cores

SOLVED = 8  # images at a time in one thread; it decides memory and speed


def squared_singular_values(features: np.ndarray) -> np.ndarray:
    """Squared singular values of each image's tokens X, not centred, largest first.

    They are the eigenvalues of the smaller Gram matrix, XXᵀ or XᵀX, in float64: the same numbers of
    dimensions as a full SVD, at about a tenth of its time.

    Args:
        features: [images, tokens, channels].

    Returns:
        [images, min(tokens, channels)], not negative.

    Raises:
        UserError: a feature is not finite.
    """
    # A few matrices per core at a time, each solved in one thread: one matrix is too small to share out.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores()) as pool:
        found = [
            part
            for chunk in chunks(features)
            for part in pool.map(_gram_eigenvalues, np.array_split(chunk, -(-len(chunk) // SOLVED)))
        ]
    return np.concatenate(found)


def _gram_eigenvalues(images: np.ndarray) -> np.ndarray:
    """Eigenvalues of each image's smaller Gram matrix, largest first: [images, tokens, channels] to [images, n]."""
    short = images if images.shape[1] <= images.shape[2] else images.transpose(0, 2, 1)
    return np.maximum(np.linalg.eigvalsh(short @ short.transpose(0, 2, 1))[:, ::-1], 0.0)
