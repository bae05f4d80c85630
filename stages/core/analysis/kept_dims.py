"""A model's top-1 when the tokens of one block keep only some of their dimensions: what `truncation` measures.

Energy says how many directions of a token matrix are large; this says how many matter. The patch tokens that leave a
block are projected on the first d directions of a basis, the rest of the network runs on what is left of them, and
top-1 is measured for each d ("Estimating the Effective Rank of Vision Transformers via Low-Rank Factorization",
2025-11, does so by factorizing weights). Two bases: one that all images share (dataset PCA), and each image's own
(its SVD).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when they are used: `check` imports the analyses, and has no use for any
import torch
from torch import Tensor

from stages.core.analysis.dims import BASES, dims, shares
from stages.core.base.errors import UserError
from stages.core.models.blocks import Cut, layout


@torch.no_grad()
def last_read_block(model: Any, images: Tensor) -> int:
    """The last block whose patch tokens the logits depend on.

    The head of a ViT with a class token reads no patch token of the last block: then it is the block before.

    Args:
        model: a timm model in evaluation mode.
        images: a batch.

    Raises:
        UserError: no block is read, or the model cannot be cut.
    """
    for block in reversed(range(len(model.feature_info))):
        cut, places = Cut(model, block), layout(model, images, block)
        output = cut.tokens(images)
        with cut.rest(images) as rest:
            if not torch.equal(rest(output), rest(places.replaced(output, torch.zeros_like(places.patches(output))))):
                return block
    raise UserError(f"{type(model).__name__}: the logits depend on the patch tokens of no block")


@dataclass(frozen=True)
class Directions:
    """The shared basis of a block's patch tokens X, and the energies in it and in each image's own, all in float64.

    Attributes:
        shared: the principal directions over all images, not centred (paper, dataset PCA), one a column by falling
            eigenvalue of Σ XᵢᵀXᵢ, [channels, channels].
        of_all: those eigenvalues, [channels].
        of_images: each image's squared singular values, largest first, [images, min(tokens, channels)].
    """

    shared: Tensor
    of_all: np.ndarray
    of_images: np.ndarray

    def energy_dims(self, levels: Sequence[int]) -> dict[str, dict[str, float]]:
        """Dims that hold shares of the energy, by basis: of all images together, and an image's own, mean over images.

        Args:
            levels: percents.
        """
        all_dims = dims(shares(self.of_all), levels).astype(float)
        own_dims = dims(shares(self.of_images), levels).mean(axis=0)
        return {
            basis: {str(level): round(float(found), 6) for level, found in zip(levels, dims, strict=True)}
            for basis, dims in zip(BASES, (all_dims, own_dims), strict=True)
        }


@torch.no_grad()
def directions(model: Any, batches: Iterable[Any], device: torch.device, block: int) -> Directions:
    """The shared basis of a block's patch tokens over all images, and the energies along it and along their own.

    Args:
        model: on `device`, in evaluation mode.
        batches: (images [batch, 3, height, width], labels).
        device: where the model is.
        block: counted from 0.
    """
    moment: Tensor | None = None
    of_images = []
    for images, _ in batches:
        images = images.to(device)
        patches = layout(model, images, block).patches(Cut(model, block).tokens(images)).double()
        of_images.append(torch.linalg.svdvals(patches).square().cpu().numpy())
        tokens = patches.flatten(0, 1)
        moment = tokens.T @ tokens if moment is None else moment + tokens.T @ tokens
    assert moment is not None  # `batches` are of one image at least
    of_all, shared = torch.linalg.eigh(moment)
    return Directions(shared.flip(1), of_all.flip(0).cpu().numpy(), np.concatenate(of_images))


def grid(dims: int, points: int) -> list[int]:
    """At most `points` counts of dimensions from 1 to `dims`, evenly spaced on a logarithmic scale."""
    return sorted({*np.rint(np.geomspace(1, dims, points)).astype(int).tolist()})


def _coordinates(patches: Tensor, shared: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Patch tokens in both bases: coordinates [images, tokens, d], directions [(images,) d, channels]."""
    u, s, vh = torch.linalg.svd(patches, full_matrices=False)
    return {"shared": (patches @ shared, shared.T), "per_image": (u * s[:, None], vh)}


@torch.no_grad()
def top1_by_dims(
    model: Any, batches: Iterable[Any], device: torch.device, *, block: int, shared: Tensor, dims: Sequence[int]
) -> tuple[float, dict[str, list[float]]]:
    """Top-1 of a model whose patch tokens of one block keep their first d dimensions, for every d.

    The network up to the block runs once for each image; only what is behind it runs again for each d.

    Args:
        model: on `device`, in evaluation mode.
        batches: (images [batch, 3, height, width], labels).
        device: where the model is.
        block: counted from 0.
        shared: orthonormal directions, one a column, [channels, channels].
        dims: rising counts of dimensions, at most the number of channels.

    Returns:
        Top-1 in percent of the model as it is, and by basis (`BASES`) one for each d. An image's own basis has as many
        directions as it has tokens or channels, whichever are fewer; a larger d keeps all of them.
    """
    cut = Cut(model, block)
    right = {name: np.zeros(len(dims), dtype=np.int64) for name in BASES}
    whole = count = 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        places = layout(model, images, block)
        output = cut.tokens(images)
        patches = places.patches(output).double()
        with cut.rest(images) as rest:
            whole += int((rest(output).argmax(1) == labels).sum())
            for name, (coordinates, directions) in _coordinates(patches, shared.to(patches)).items():
                kept, before = torch.zeros_like(patches), 0
                for place, d in enumerate(dims):
                    # directions before d are in `kept` already
                    kept = kept + coordinates[..., before:d] @ directions[..., before:d, :]
                    before = d
                    logits = rest(places.replaced(output, kept.to(output.dtype)))
                    right[name][place] += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return 100 * whole / count, {name: (100 * found / count).tolist() for name, found in right.items()}


def needed(dims: Sequence[int], top1: Sequence[float], whole: float, shares: Sequence[int]) -> dict[str, int | None]:
    """The smallest d from which on top-1 stays at or above a share of the whole model's.

    Args:
        dims: rising.
        top1: percent, one for each d.
        whole: of the model as it is.
        shares: percents of `whole`.

    Returns:
        By share, a d of `dims`; None where even the last falls short.
    """
    found: dict[str, int | None] = {}
    for share in shares:
        reached = [value >= whole * share / 100 - 1e-9 for value in top1]
        below = [place for place, there in enumerate(reached) if not there]
        first = below[-1] + 1 if below else 0
        found[str(share)] = dims[first] if first < len(dims) else None
    return found


def knee(dims: Sequence[int], top1: Sequence[float]) -> int | None:
    """The d at which the curve of top-1 is farthest above the line between its ends.

    Monotone cubic (PCHIP) interpolation between the points of the grid, looked at in every whole d. The answer does not
    depend on the units of either axis: distances from a line scale alike everywhere.

    Returns:
        A d, or None where there are fewer than three points or the curve is nowhere above the line.
    """
    if len(dims) < 3:
        return None
    every = np.arange(dims[0], dims[-1] + 1)
    curve = scipy.interpolate.PchipInterpolator(dims, top1)(every)
    line = top1[0] + (top1[-1] - top1[0]) * (every - dims[0]) / (dims[-1] - dims[0])
    above = curve - line
    return int(every[above.argmax()]) if above.max() > 1e-9 else None


def summary(
    dims: Sequence[int], top1: Mapping[str, Sequence[float]], whole: float, shares: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """By basis: the d that keep shares of the whole model's top-1, and the knee."""
    return {
        name: {"dims": needed(dims, curve, whole, shares), "knee": knee(dims, curve)} for name, curve in top1.items()
    }
