"""Centred kernel alignment (CKA) of every block of one model with every block of another.

Linear CKA of representations, each image's tokens as one long row, by the unbiased HSIC estimator averaged over
minibatches (Song et al. 2012; Nguyen, Raghu and Kornblith, ICLR 2021): unlike the plain estimator it does not grow
with the number of features over the number of images. 1 is equal up to rotation and scale, 0 is unrelated; an
estimate may be slightly below 0.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.base.errors import UserError
from stages.core.models.blocks import recorded_blocks

LEAST_IMAGES = 4  # of a minibatch: the estimator divides by n − 3


def unbiased_hsic(kernels: Tensor, others: Tensor) -> Tensor:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion, of all pairs of kernel matrices.

    HSIC₁ = [tr(K̃L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((n − 1)(n − 2)) − 2/(n − 2) · 1ᵀK̃L̃1] / (n(n − 3)), with K̃ and L̃ the kernel
    matrices with zero diagonals (Song et al. 2012, equation 5).

    Args:
        kernels: [models, n, n], symmetric.
        others: [other models, n, n], symmetric.

    Returns:
        [models, other models].

    Raises:
        UserError: n is less than 4.
    """
    n = kernels.shape[-1]
    if n < LEAST_IMAGES:
        raise UserError(f"CKA needs at least {LEAST_IMAGES} images at a time, not {n}; raise analysis.images_per_class")
    off_diagonal = 1 - torch.eye(n, dtype=kernels.dtype, device=kernels.device)
    k, other = kernels * off_diagonal, others * off_diagonal
    traces = torch.einsum("aij,bij->ab", k, other)
    totals = k.sum((1, 2))[:, None] * other.sum((1, 2))[None] / ((n - 1) * (n - 2))
    crossed = k.sum(2) @ other.sum(2).T * 2 / (n - 2)
    return (traces + totals - crossed) / (n * (n - 3))


class BlockCka:
    """CKA of the blocks of several models with those of one other, minibatch by minibatch.

    Attributes:
        images: how many were added.
    """

    def __init__(self) -> None:
        self.images = 0
        self._cross: Tensor | None = None  # sums over minibatches of HSIC₁, [blocks, other blocks]
        self._own: Tensor | None = None
        self._other: Tensor | None = None

    def add(self, blocks: Iterable[Tensor], others: Iterable[Tensor]) -> None:
        """Add a minibatch.

        Args:
            blocks: what leaves each block of a model, [images, …] each.
            others: the same of the other model, of the same images.

        Raises:
            UserError: there are fewer than 4 images.
        """
        kernels, other_kernels = (torch.stack([_kernel(block) for block in found]) for found in (blocks, others))
        sums = (
            unbiased_hsic(kernels, other_kernels),
            unbiased_hsic(kernels, kernels).diagonal(),
            unbiased_hsic(other_kernels, other_kernels).diagonal(),
        )
        before = (self._cross, self._own, self._other)
        self._cross, self._own, self._other = (
            one if known is None else known + one for known, one in zip(before, sums, strict=True)
        )
        self.images += kernels.shape[-1]

    def result(self) -> Tensor:
        """CKA, [blocks, other blocks]; 0 where a block's outputs do not differ between images."""
        assert self._cross is not None and self._own is not None and self._other is not None  # `add` was called
        norms = (self._own.clamp(min=0)[:, None] * self._other.clamp(min=0)[None]).sqrt()
        return torch.where(norms > 0, self._cross / norms, torch.zeros_like(norms))


def _kernel(block: Tensor) -> Tensor:
    """Inner products of all pairs of images, in float64, [images, images]."""
    flat = block.flatten(1).double()
    return flat @ flat.T


@torch.no_grad()
def block_cka(
    model: Any,
    other: Any,
    batches: Iterable[Any],
    device: torch.device,
    renormalize: Callable[[Tensor], Tensor] = lambda images: images,
) -> np.ndarray:
    """CKA of every block of one model with every block of another, over some images.

    A minibatch of fewer than 4 images is left out: the estimator is not defined on it.

    Args:
        model, other: timm models with `feature_info`, on `device`.
        batches: (images [batch, 3, height, width], labels).
        device: where both are.
        renormalize: takes images normalised for `model` to the normalisation of `other`.

    Returns:
        [blocks, blocks of the other]; NaN where no minibatch has 4 images.
    """
    cka = BlockCka()
    model.eval()
    other.eval()
    with recorded_blocks(model) as blocks, recorded_blocks(other) as others:
        for images, _ in batches:
            images = images.to(device)
            if len(images) < LEAST_IMAGES:
                continue
            model(images)
            other(renormalize(images))
            cka.add(blocks, others)
    if not cka.images:
        return np.full((len(model.feature_info), len(other.feature_info)), np.nan)
    return cka.result().cpu().numpy()
