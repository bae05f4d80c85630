"""DeiT-Tiny as the base of the students: its configuration, and how an altered one is built by timm."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

DEIT_CFG = {
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


def deit_tiny(model_class: type[VisionTransformer], variant: str, **kwargs: Any) -> VisionTransformer:
    """A DeiT-Tiny of a class of its own; `kwargs` replace its arguments."""
    arguments = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    return build_model_with_cfg(
        model_class,
        variant,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"},
        **arguments,
    )
