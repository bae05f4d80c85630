"""Squared singular values of token matrices: all that the sample-wise SVD needs of a block."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from stages.core.features.store import chunks
from stages.core.runtime.machine import cores

SOLVED = 8  # at most, images at a time in one thread; it decides memory and speed


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
    return squared_singular_values_of_blocks([features])[0]


def squared_singular_values_of_blocks(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`squared_singular_values` of the features of several blocks."""
    # A few matrices per core at a time, each solved in one thread: one matrix is too small to share out.
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        return [
            np.concatenate(
                [
                    part
                    for chunk in chunks(features)
                    for part in pool.map(_gram_eigenvalues, np.array_split(chunk, _parts(len(chunk))))
                ]
            )
            for features in maps
        ]


def _parts(images: int) -> int:
    """Into how many parts to divide images: one for each core at least, none of more than `SOLVED` images."""
    return max(min(images, cores()), -(-images // SOLVED))


@cache
def _libraries() -> ThreadpoolController:
    """The libraries with threads of their own; to look for them takes as long as a few images do."""
    return ThreadpoolController()


def _gram_eigenvalues(images: np.ndarray) -> np.ndarray:
    """Eigenvalues of each image's smaller Gram matrix, largest first: [images, tokens, channels] to [images, n]."""
    short = images if images.shape[1] <= images.shape[2] else images.transpose(0, 2, 1)
    return np.maximum(np.linalg.eigvalsh(short @ short.transpose(0, 2, 1))[:, ::-1], 0.0)
