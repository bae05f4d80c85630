"""Teacher features as PHI-S targets: centred, rotated and scaled so that every channel has variance 1.

Ranzinger et al., "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation" (2024), as in NVlabs' RADIO:
targets are H Uᵀ (T − mean) / √(mean eigenvalue), where U holds the eigenvectors of the features' covariance and H is a
Hadamard matrix, scaled to be orthogonal. The entries of H have one modulus, so each target channel has the same part of
every eigenvector's variance. Rotation and one common scale keep all distances' proportions, which channel-wise
standardisation would not.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.losses.targets import tokens_of

IMAGES = 2048  # training images that the statistics are taken from, evenly spaced in the list


class BalancedTarget(nn.Module):
    """A teacher's map as a PHI-S target; the identity until `set_statistics` is called."""

    mean: Tensor
    rotation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("rotation", torch.eye(width))

    def set_statistics(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the mean [channels] and the covariance [channels, channels] of the teacher's tokens.

        Raises:
            UserError: there is no Hadamard matrix of the teacher's width, or the features do not vary.
        """
        self.mean.copy_(mean)
        self.rotation.copy_(torch.from_numpy(balancing(covariance.numpy())))

    def forward(self, teacher_map: Tensor) -> Tensor:
        """[images, channels, rows, columns] to the same shape."""
        centred = teacher_map.movedim(1, -1) - self.mean
        return (centred @ self.rotation.T).movedim(-1, 1)


def balancing(covariance: np.ndarray) -> np.ndarray:
    """H Uᵀ / √(mean eigenvalue) of a covariance [channels, channels], in float64.

    Raises:
        UserError: see `hadamard_matrix`, or the covariance is zero.
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    scale = eigenvalues.mean()
    if not scale > 0:
        raise UserError("the teacher's features are the same at every token: their channels cannot be balanced")
    # The signs of eigenvectors are arbitrary: the largest entry of each becomes positive.
    vectors *= np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0))
    return hadamard_matrix(len(covariance)) @ vectors.T / np.sqrt(scale)


def hadamard_matrix(order: int) -> np.ndarray:
    """An orthogonal matrix [order, order] whose entries are ±1 / √order.

    Sylvester's construction for powers of two times Paley's first for 4, 8, 12, 20, 24, … (a prime of the form 4n − 1
    plus one), which covers the usual widths of transformers.

    Raises:
        UserError: this makes no matrix of that order.
    """
    doubling = np.array([[1, 1], [1, -1]])
    rest, doublings = order, 0
    while True:
        matrix = _paley(rest)
        if matrix is not None:
            for _ in range(doublings):
                matrix = np.kron(doubling, matrix)
            return matrix / np.sqrt(order)
        if rest % 2:
            break
        rest, doublings = rest // 2, doublings + 1
    raise UserError(
        f"balanced targets need a Hadamard matrix of the teacher's width, and none of order {order} can be made; use "
        "a teacher whose width is a power of two, or 12, 20, 44, 60, … times one (192, 384, 768)"
    )


def _paley(order: int) -> np.ndarray | None:
    """A Hadamard matrix of order 1, or of q + 1 for a prime q of the form 4n − 1; None for other orders."""
    if order == 1:
        return np.ones((1, 1))
    prime = order - 1
    if prime % 4 != 3 or any(prime % factor == 0 for factor in range(2, int(prime**0.5) + 1)):
        return None
    legendre = np.full(prime, -1)  # 1 for squares, 0 for zero
    legendre[np.arange(1, prime) ** 2 % prime] = 1
    legendre[0] = 0
    matrix = np.ones((order, order))
    matrix[1:, 0] = -1
    difference = np.arange(prime)[:, None] - np.arange(prime)
    matrix[1:, 1:] = np.eye(prime) - legendre[difference % prime]
    return matrix


@torch.no_grad()
def token_moments(maps: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [channels] and covariance [channels, channels] of all tokens of maps [images, channels, rows, columns].

    In float64 on the CPU; nothing but sums is kept in memory.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for batch in maps:
        tokens = tokens_of(batch).flatten(0, 1).double().cpu()
        count += len(tokens)
        total = total + tokens.sum(0)
        products = products + tokens.T @ tokens
    mean = total / count
    return mean, products / count - mean.outer(mean)
