"""WideLast: a student whose last block, or last blocks, are as wide as the teacher.

Importing this module registers `deit_tiny_widelast_patch16_224` with `timm.create_model`; smaller scales are the same
architecture with other arguments (`img_size`, `embed_dim`, `depth`, …).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.layers import DropPath, LayerScale
from timm.models import generate_default_cfgs, named_apply, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Attention, Block, Mlp, VisionTransformer, get_init_weights_vit
from torch import Tensor, nn

from stages.core.models.deit import DEIT_CFG, deit_tiny

default_cfgs = generate_default_cfgs({"deit_tiny_widelast_patch16_224": DEIT_CFG})


class WidenedBlock(Block):
    """A transformer block that first projects its input to its own width: Linear (no bias) → norm → block."""

    def __init__(self, in_dim: int, dim: int, norm_layer: Callable[[int], nn.Module], **kwargs: Any) -> None:
        super().__init__(dim, norm_layer=norm_layer, **kwargs)
        self.proj_in = nn.Linear(in_dim, dim, bias=False)
        self.proj_norm = norm_layer(dim)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[images, tokens, in dim] to [images, tokens, dim]."""
        return super().forward(self.proj_norm(self.proj_in(x)), *args, **kwargs)


class WidenedVisionTransformer(VisionTransformer):
    """A VisionTransformer with its last blocks at a larger width (WideLast): `widen`, as a timm class.

    With timm's default initialisation the class token starts truncated normal with a standard deviation of 0.02, as
    in the authors' release (timm: 1e-6).

    Args:
        widen_width, widen_blocks, widen_widths, widen_heads: `width`, `blocks`, `widths` and `heads` of `widen`.
        args, kwargs: as for timm's VisionTransformer.
    """

    embed_dim: int
    decays_all_in_release = True  # the authors' class names no exceptions from weight decay

    def __init__(
        self,
        *args: Any,
        widen_width: int | None = None,
        widen_blocks: int = 1,
        widen_widths: Sequence[int] | None = None,
        widen_heads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        widen(self, widen_width, blocks=widen_blocks, widths=widen_widths, heads=widen_heads)
        if not self.weight_init_mode and self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward_intermediates(  # type: ignore[no-untyped-def]
        self, x: Tensor, indices=None, return_prefix_tokens: bool = False, norm: bool = False, *args: Any, **kwargs: Any
    ):
        """As timm's.

        Raises:
            ValueError: the final norm is to be applied to a block of another width.
        """
        for index in feature_take_indices(len(self.blocks), indices)[0] if norm else ():
            width = self.feature_info[index]["num_chs"]
            if width != self.embed_dim:
                raise ValueError(
                    f"block {index} has {width} channels, the final norm {self.embed_dim}; do without the norm"
                )
        return super().forward_intermediates(x, indices, return_prefix_tokens, norm, *args, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's; norm and head, of the last block's width, go with it where the block before has another."""
        kept = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        width = self.feature_info[len(self.blocks) - 1]["num_chs"]
        if width != self.embed_dim:
            self.embed_dim = self.num_features = self.head_hidden_size = width
            self.norm = self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return kept


def widen(
    model: VisionTransformer,
    width: int | None = None,
    *,
    blocks: int = 1,
    widths: Sequence[int] | None = None,
    heads: int | None = None,
) -> VisionTransformer:
    """Make the last blocks of a timm VisionTransformer wider, in place.

    The blocks before keep their weights; each widened block is new, behind Linear(no bias) → norm from the
    width before it. The final norm and the head are replaced. New parts are initialised as the model's own are: by
    timm's default, Linear weights are normal with a standard deviation of 0.02 and biases 0.

    Args:
        model: a VisionTransformer built from timm's standard block.
        width: channels of the last block; the paper takes the teacher's embed dim.
        blocks: how many blocks to widen, in equal steps from the model's embed dim to `width`
            (1: the last block only; 3, from 192 to 384: 256, 320, 384).
        widths: instead of `width` and `blocks`, the width of each widened block; the last is the model's last block.
        heads: attention heads of the widened blocks; None keeps the channels per head.

    Returns:
        The same object.

    Raises:
        TypeError: the last blocks are not timm's standard Block.
        ValueError: both or neither of `width` and `widths` are set, there are fewer blocks than widths, or a width is
            not a whole number of channels or of heads.
    """
    if (width is None) == (widths is None):
        raise ValueError("widen takes either the last block's width or the list of widths")
    steps = _equal_steps(model, width, blocks) if width is not None else list(widths or ())
    if not 1 <= len(steps) <= len(model.blocks):
        raise ValueError(f"cannot widen {len(steps)} of {len(model.blocks)} blocks")
    if type(model) is VisionTransformer:
        model.__class__ = WidenedVisionTransformer
    before = model.embed_dim
    for index, after in enumerate(steps, len(model.blocks) - len(steps)):
        model.blocks[index] = _widened(model.blocks[index], before, after, heads)
        named_apply(get_init_weights_vit(model.weight_init_mode), model.blocks[index])
        model.feature_info[index]["num_chs"] = after
        before = after
    model.embed_dim = model.num_features = model.head_hidden_size = before
    if not isinstance(model.norm, nn.Identity):
        model.norm = _norm_like(model.norm)(before)
    if not isinstance(model.fc_norm, nn.Identity):
        model.fc_norm = _norm_like(model.fc_norm)(before)
    model.reset_classifier(model.num_classes)
    if model.weight_init_mode != "reset":  # torch's own initialisation, which the new head has already
        head_bias = -math.log(model.num_classes) if "nlhb" in model.weight_init_mode else 0.0
        get_init_weights_vit(model.weight_init_mode, head_bias)(model.head, "head")
    return model


def _equal_steps(model: VisionTransformer, width: int, blocks: int) -> list[int]:
    """Widths of the last `blocks` blocks, in equal steps from the model's embed dim to `width`."""
    base = model.embed_dim
    if not 1 <= blocks <= len(model.blocks):
        raise ValueError(f"cannot widen {blocks} of {len(model.blocks)} blocks")
    if (width - base) % blocks:
        raise ValueError(f"{blocks} equal steps from {base} to {width} channels are not whole")
    return [base + step * (width - base) // blocks for step in range(1, blocks + 1)]


def _norm_like(norm: nn.Module) -> Callable[[int], nn.Module]:
    return partial(type(norm), eps=norm.eps)


def _widened(block: Any, before: int, after: int, heads: int | None) -> WidenedBlock:
    """A new block like `block`, `after` channels wide, that takes `before` channels."""
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        raise TypeError(f"widen takes timm's standard transformer blocks, not {type(block).__name__}")
    heads = heads or after // block.attn.head_dim
    if after % heads:
        raise ValueError(f"{after} channels are not a multiple of {heads} heads")
    attention, mlp = block.attn, block.mlp
    return WidenedBlock(
        before,
        after,
        num_heads=heads,
        mlp_ratio=mlp.fc1.out_features / attention.qkv.in_features,
        qkv_bias=attention.qkv.bias is not None,
        qk_norm=not isinstance(attention.q_norm, nn.Identity),
        proj_bias=attention.proj.bias is not None,
        proj_drop=attention.proj_drop.p,
        attn_drop=attention.attn_drop.p,
        init_values=float(block.ls1.gamma[0]) if isinstance(block.ls1, LayerScale) else None,
        drop_path=block.drop_path1.drop_prob if isinstance(block.drop_path1, DropPath) else 0.0,
        act_layer=type(mlp.act),
        norm_layer=_norm_like(block.norm1),
    )


@register_model
def deit_tiny_widelast_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT-Tiny with its last blocks widened: `widen_blocks` (1) to `widen_width` (384) channels, or `widen_widths`."""
    arguments = kwargs if kwargs.get("widen_widths") else {"widen_width": 384, **kwargs}
    return deit_tiny(WidenedVisionTransformer, "deit_tiny_widelast_patch16_224", pretrained=pretrained, **arguments)
