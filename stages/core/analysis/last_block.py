"""The last-block maps of a trained model on a set of images, in memory, as tokens, and the rank that they can have."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.models.lift import LiftedVisionTransformer
from stages.core.models.students import forward_with_map


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
