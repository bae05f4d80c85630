"""Lift: a student that keeps a linear projector of its patch tokens to the teacher's width at inference.

Importing this module registers `deit_tiny_lift_patch16_224` with `timm.create_model`; smaller scales are the same
architecture with other arguments (`img_size`, `embed_dim`, `depth`, …).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stages.core.models.deit import DEIT_CFG, deit_tiny

default_cfgs = generate_default_cfgs({"deit_tiny_lift_patch16_224": DEIT_CFG})


class LiftedVisionTransformer(VisionTransformer):
    """A VisionTransformer whose last-block patch tokens are read through a linear projector (Lift).

    The projector stays at inference: patch tokens, not normalised → Linear(embed dim → width, no bias) →
    LayerNorm(width) → mean over tokens → head. The transformer's own final norm is removed and its class token is
    not used. `forward_intermediates` returns the lifted tokens as the last block's output: they are what feature
    distillation matches with the teacher's. Projector and head keep torch's initialisation of `nn.Linear`, as in
    the authors' release.

    Args:
        lift_width: channels of the lifted tokens; the paper takes the teacher's embed dim.
        args, kwargs: as for timm's VisionTransformer.
    """

    decays_all_in_release = True  # the authors' class names no exceptions from weight decay
    embed_dim: int
    lift_proj: nn.Linear
    lift_norm: nn.LayerNorm

    def __init__(self, *args: Any, lift_width: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._add_lift(lift_width)

    def _add_lift(self, width: int) -> None:
        self.lift_proj = nn.Linear(self.embed_dim, width, bias=False)
        self.lift_norm = nn.LayerNorm(width)
        self.norm = self.fc_norm = nn.Identity()
        self.embed_dim = self.num_features = self.head_hidden_size = width
        self.feature_info[-1]["num_chs"] = width
        self.reset_classifier(self.num_classes, "avg")
        self.pool_include_prefix = True  # the prefix tokens are dropped before the pool

    def _lift(self, tokens: Tensor) -> Tensor:
        return self.lift_norm(self.lift_proj(tokens))

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Lifted patch tokens, [images, tokens, lift width]."""
        tokens = super().forward_features(x, *args, **kwargs)
        return self._lift(tokens[:, self.num_prefix_tokens :])

    def forward_intermediates(  # type: ignore[no-untyped-def]
        self,
        x: Tensor,
        indices=None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        **kwargs: Any,
    ):
        """As timm's, with the lifted tokens as the last block's output; there is no final norm to apply.

        Raises:
            ValueError: prefix tokens or a dictionary are asked for.
        """
        if return_prefix_tokens or kwargs.pop("output_dict", False):
            raise ValueError("a lifted model has no prefix tokens after its projector, and returns no dictionary")
        last = len(self.blocks) - 1
        wanted = sorted(set(feature_take_indices(last + 1, indices)[0]))
        take = wanted if intermediates_only or last in wanted else [*wanted, last]
        maps = super().forward_intermediates(
            x, take, stop_early=stop_early, output_fmt="NLC", intermediates_only=True, **kwargs
        )
        lifted = None
        if take[-1] == last:
            lifted = self._lift(maps.pop())
            if last in wanted:
                maps.append(lifted)
        if output_fmt == "NCHW":
            height, width = self.patch_embed.dynamic_feat_size(x.shape[-2:])
            maps = [tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous() for tokens in maps]
        return maps if intermediates_only else (lifted, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's; the projector and the head belong to the last block, and go with it."""
        depth = len(self.blocks)
        kept = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if len(self.blocks) < depth:
            self.lift_proj = self.lift_norm = nn.Identity()  # type: ignore[assignment]
            self.reset_classifier(0, "")
        return kept


def lift(model: VisionTransformer, width: int) -> LiftedVisionTransformer:
    """Turn a timm VisionTransformer, in place, into one that reads its patch tokens through a projector.

    Weights are kept, except that the final norm is removed and the head replaced by one for `width` channels.

    Args:
        model: a plain VisionTransformer.
        width: channels after the projector; the paper takes the teacher's embed dim.

    Returns:
        The same object, now a `LiftedVisionTransformer`.

    Raises:
        TypeError: the model is of another class, whose forward pass the surgery does not know.
    """
    if type(model) is not VisionTransformer:
        raise TypeError(f"lift takes a timm VisionTransformer, not a {type(model).__name__}")
    model.__class__ = LiftedVisionTransformer
    model._add_lift(width)
    return model


@register_model
def deit_tiny_lift_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with a projector to `lift_width` (384) channels kept at inference."""
    arguments = {"lift_width": 384, **kwargs}
    return deit_tiny(LiftedVisionTransformer, "deit_tiny_lift_patch16_224", pretrained=pretrained, **arguments)
