"""Logits and patch-token maps of a timm model in one forward pass."""

from collections.abc import Sequence

from torch import Tensor, nn


def forward_with_map(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the last block's patch-token map, before the final norm, in one forward pass.

    Args:
        model: a timm ViT, CaiT, or one of this project's students.
        images: [images, 3, height, width], normalised for the model.

    Returns:
        logits [images, classes] and map [images, channels, rows, columns].
    """
    logits, (last_map,) = forward_with_maps(model, images, ["last"])
    return logits, last_map


def forward_with_maps(model: nn.Module, images: Tensor, blocks: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """`forward_with_map` for several blocks, "first" or "last": logits and a map for each of `blocks`.

    Without any block, the model's plain pass, which every timm model has.
    """
    if not blocks:
        return model(images), []
    indices = [block_index(model, block) for block in blocks]
    taken = sorted({*indices, block_index(model, "last")})  # the tokens after the last block make the logits
    tokens, found = model.forward_intermediates(images, indices=taken)  # type: ignore[operator]
    maps = dict(zip(taken, found, strict=True))
    return model.forward_head(tokens), [maps[index] for index in indices]  # type: ignore[operator]


def block_index(model: nn.Module, block: str) -> int:
    """The index of a model's "first" or "last" block."""
    return {"first": 0, "last": len(model.feature_info) - 1}[block]  # type: ignore[arg-type]
