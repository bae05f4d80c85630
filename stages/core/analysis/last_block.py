"""The last-block maps of a trained model on a set of images, as tokens; the rank that they can have; who reads them."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.models.blocks import recorded_blocks
from stages.core.models.lift import LiftedVisionTransformer
from stages.core.models.maps import forward_with_map


@torch.no_grad()
def last_maps(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    renormalize: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """Patch-token maps of the last block, before the final norm, [images, channels, rows, columns].

    Args:
        model: a timm ViT, CaiT or student, on `device`.
        batches: (images [batch, 3, height, width], labels).
        device: where the model is.
        renormalize: converts the images to the model's own normalisation.
    """
    model.eval()
    found = [forward_with_map(model, renormalize(images.to(device)))[1].float().cpu() for images, _ in batches]
    return torch.cat(found)


def tokens_of(maps: Tensor) -> np.ndarray:
    """Maps [images, channels, rows, columns] as tokens [images, tokens, channels]."""
    return maps.flatten(2).transpose(1, 2).numpy()


def map_rank(model: nn.Module) -> int:
    """The largest rank that the tokens of a model's last block can have together, over any images.

    Lift reads narrow tokens through one fixed projector: their rank is at most the narrow width. The LayerNorm after it
    scales each token, which leaves the rank, and shifts all, which adds at most one. Other models can have the rank of
    their width.
    """
    width: int = model.feature_info[-1]["num_chs"]  # type: ignore[index, assignment]
    return min(width, model.lift_proj.in_features + 1) if isinstance(model, LiftedVisionTransformer) else width


def reads_patch_tokens(model: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether the head reads the patch tokens that leave the last block, which feature losses match with the teacher's.

    It does if the gradient of the cross-entropy at any of them is not exactly zero. A head on the class token alone
    reads none of them: matching them can change its logits only through the weights of the blocks before.

    Args:
        model: a timm ViT, CaiT or student, in evaluation mode.
        images: [images, 3, height, width], normalised for the model.
        labels: [images].
    """
    with torch.enable_grad(), recorded_blocks(model) as outputs:
        logits, last_map = forward_with_map(model, images)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), outputs[-1])
    if gradient.ndim == 3:  # tokens: class and register tokens come before those of the map
        gradient = gradient[:, gradient.shape[1] - last_map.shape[2] * last_map.shape[3] :]
    return bool(gradient.any())
