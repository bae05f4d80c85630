"""DeiT-Tiny as the base of the students: its configuration, and how an altered one is built by timm."""

from typing import Any

from timm.models import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn


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
