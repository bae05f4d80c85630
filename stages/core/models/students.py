"""The students of the paper as timm models. Importing this module registers them with `timm.create_model`."""

from stages.core.models.lift import LiftedVisionTransformer, lift
from stages.core.models.uniform import deit_tiny_uniform_patch16_224
from stages.core.models.widelast import WidenedVisionTransformer, widen

__all__ = ["LiftedVisionTransformer", "WidenedVisionTransformer", "deit_tiny_uniform_patch16_224", "lift", "widen"]
