"""The students of the paper as timm models: DeiT-Tiny with `lift` or `widen`, and the maps of any timm model.

Importing this module registers `deit_tiny_lift_patch16_224`, `deit_tiny_widelast_patch16_224` and
`deit_tiny_uniform_patch16_224` with `timm.create_model`. Smaller scales are the same architectures with other
arguments (`img_size`, `embed_dim`, `depth`, …).
"""

from collections.abc import Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from stages.core.models.lift import LiftedVisionTransformer
from stages.core.models.widelast import WidenedVisionTransformer

# Students whose classes in the authors' release name no exceptions from weight decay.
ALTERED = (LiftedVisionTransformer, WidenedVisionTransformer)


def forward_with_map(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the last block's patch-token map, before the final norm, in one forward pass.

    Args:
        model: a timm ViT, CaiT, or a student of this module.
        images: [images, 3, height, width], normalised for the model.

    Returns:
        logits [images, classes] and map [images, channels, rows, columns].
    """
    logits, (last_map,) = forward_with_maps(model, images, ["last"])
    return logits, last_map


def forward_with_maps(model: nn.Module, images: Tensor, blocks: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """`forward_with_map` for several blocks, "first" or "last": logits and a map for each of `blocks`."""
    indices = [block_index(model, block) for block in blocks]
    taken = sorted({*indices, block_index(model, "last")})  # the tokens after the last block make the logits
    tokens, found = model.forward_intermediates(images, indices=taken)  # type: ignore[operator]
    maps = dict(zip(taken, found, strict=True))
    return model.forward_head(tokens), [maps[index] for index in indices]  # type: ignore[operator]


def block_index(model: nn.Module, block: str) -> int:
    """The index of a model's "first" or "last" block."""
    return {"first": 0, "last": len(model.feature_info) - 1}[block]  # type: ignore[arg-type]


_DEIT_CFG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
default_cfgs = generate_default_cfgs(
    {
        "deit_tiny_lift_patch16_224": _DEIT_CFG,
        "deit_tiny_widelast_patch16_224": _DEIT_CFG,
        "deit_tiny_uniform_patch16_224": _DEIT_CFG,
    }
)


def _deit_tiny(model_class: type[VisionTransformer], variant: str, **kwargs: Any) -> VisionTransformer:
    arguments = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    return build_model_with_cfg(
        model_class,
        variant,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"},
        **arguments,
    )


@register_model
def deit_tiny_lift_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with a projector to `lift_width` (384) channels kept at inference."""
    arguments = {"lift_width": 384, **kwargs}
    return _deit_tiny(LiftedVisionTransformer, "deit_tiny_lift_patch16_224", pretrained=pretrained, **arguments)


@register_model
def deit_tiny_widelast_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with its last blocks widened: `widen_blocks` (1) to `widen_width` (384) channels, or `widen_widths`."""
    arguments = kwargs if kwargs.get("widen_widths") else {"widen_width": 384, **kwargs}
    return _deit_tiny(WidenedVisionTransformer, "deit_tiny_widelast_patch16_224", pretrained=pretrained, **arguments)


@register_model
def deit_tiny_uniform_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with every block 219 channels wide: as large as WideLast, without its last block."""
    arguments = {"embed_dim": 219, **kwargs}
    return _deit_tiny(VisionTransformer, "deit_tiny_uniform_patch16_224", pretrained=pretrained, **arguments)
