"""The control of equal size: a DeiT-Tiny with every block a little wider, registered with `timm.create_model`."""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from stages.core.models.deit import DEIT_CFG, deit_tiny

default_cfgs = generate_default_cfgs({"deit_tiny_uniform_patch16_224": DEIT_CFG})


@register_model
def deit_tiny_uniform_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with every block 219 channels wide: as large as WideLast, without its last block."""
    arguments = {"embed_dim": 219, **kwargs}
    return deit_tiny(VisionTransformer, "deit_tiny_uniform_patch16_224", pretrained=pretrained, **arguments)
