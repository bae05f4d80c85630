"""Principal angles and overlaps between the subspaces of images, and effective ranks of spectra."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from stages.core.features.store import chunks
from stages.core.runtime.machine import cores

PAIRS_AT_ONCE = 32
CANDIDATES = 4  # pairs drawn for each pair across classes: of two or more equal classes a third or more are across


def leading_subspaces(features: np.ndarray, k: int) -> np.ndarray:
    """Orthonormal bases of the k right singular vectors of each image's tokens with the largest singular values.

    For an image of lower rank the remaining directions are arbitrary.

    Args:
        features: [images, tokens, channels].
        k: at most the smaller of tokens and channels.

    Returns:
        [images, channels, k], in float32.

    Raises:
        UserError: a feature is not finite.
    """

    def of_images(images: np.ndarray) -> np.ndarray:
        if images.shape[1] >= images.shape[2]:
            return np.linalg.eigh(images.transpose(0, 2, 1) @ images)[1][..., -k:]
        left = np.linalg.eigh(images @ images.transpose(0, 2, 1))[1][..., -k:]
        return np.linalg.qr(images.transpose(0, 2, 1) @ left)[0]

    found: list[np.ndarray] = []
    # A batch of matrices per core, each solved in one thread: one matrix is too small to share out.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores()) as pool:
        for chunk in chunks(features):
            parts = pool.map(of_images, np.array_split(chunk, cores()))
            found.extend(part.astype(np.float32) for part in parts)
    return np.concatenate(found)


def random_subspaces(count: int, channels: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal bases of uniformly random subspaces, [count, channels, k]."""
    return np.linalg.qr(rng.normal(size=(count, channels, k)))[0]


def principal_cosines(first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosines of the principal angles between subspaces, largest first (so the smallest angle is first).

    Args:
        first, second: orthonormal bases, [subspaces, channels, k].
        pairs: indices into `first` and `second`, [pairs, 2].

    Returns:
        [pairs, k] in [0, 1].
    """
    found = [np.empty((0, first.shape[2]))]
    for few in np.array_split(pairs, -(-len(pairs) // PAIRS_AT_ONCE) or 1):
        products = first[few[:, 0]].astype(float).transpose(0, 2, 1) @ second[few[:, 1]].astype(float)
        found.append(np.linalg.svd(products, compute_uv=False))
    return np.clip(np.concatenate(found), 0.0, 1.0)


def overlap(cosines: np.ndarray) -> np.ndarray:
    """The mean squared cosine of the principal angles: the share of one subspace that lies in the other.

    1 for equal subspaces, 0 for orthogonal ones; its expectation for random ones is k/D.
    """
    return np.square(cosines).mean(axis=-1)


def pairs_within(classes: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different pairs of images of one class, [pairs, 2]; none if each class has one image."""
    names = np.asarray(classes)
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(classes)]
    pairs = np.concatenate([np.stack([of[i] for i in np.triu_indices(len(of), 1)], axis=1) for of in members])
    return rng.permutation(pairs)[:count]


def pairs_across(classes: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different pairs of images of two classes, [pairs, 2]."""
    names = np.asarray(classes)
    total = len(names) * (len(names) - 1) // 2
    # Pairs i < j are numbered n = j(j − 1)/2 + i, so that they need not all be listed.
    numbers = rng.permutation(rng.choice(total, min(total, CANDIDATES * count), replace=False))
    second = ((1 + np.sqrt(1 + 8 * numbers)) / 2).astype(int)
    pairs = np.stack([numbers - second * (second - 1) // 2, second], axis=1)
    return pairs[names[pairs[:, 0]] != names[pairs[:, 1]]][:count]


def compared(
    subspaces: np.ndarray, shared: np.ndarray, within: np.ndarray, across: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the principal cosines, [pairs, k], of each comparison; "within" only if there are such pairs.

    Args:
        subspaces: of images, [images, channels, k].
        shared: a basis for all of them, the most important direction first, [channels, channels].
        within, across: pairs of images, [pairs, 2].
        rng: of the random subspaces; there are as many pairs of them as across classes.
    """
    images, channels, k = subspaces.shape
    if len(within):
        yield "within", principal_cosines(subspaces, subspaces, within)
    yield "across", principal_cosines(subspaces, subspaces, across)
    own = np.stack([np.arange(images), np.zeros(images, dtype=int)], axis=1)
    yield "shared", principal_cosines(subspaces, shared[None, :, :k], own)
    # The angles to a fixed subspace are distributed as those between two random ones.
    fixed = np.eye(channels)[None, :, :k]
    turned = [principal_cosines(random_subspaces(1, channels, k, rng), fixed, np.zeros((1, 2), int)) for _ in across]
    yield "random", np.concatenate(turned)


def effective_rank(energies: np.ndarray) -> np.ndarray:
    """exp(−Σ p ln p) with p the shares of the energies along the last axis: n if n energies are equal and the rest 0.

    Here of squared singular values; Roy and Vetterli (2007) take the singular values. 0 if the energy is 0.
    """
    positive = np.maximum(energies, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    p = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.where(total[..., 0] > 0, np.exp(-(p * logs).sum(axis=-1)), 0.0)


def stable_rank(energies: np.ndarray) -> np.ndarray:
    """Σσ² / max σ² along the last axis, of squared singular values; 0 if the energy is 0."""
    largest = np.asarray(energies).max(axis=-1)
    return np.divide(np.sum(energies, axis=-1), largest, out=np.zeros_like(largest), where=largest > 0)
