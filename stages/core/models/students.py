"""The students of the paper as timm models: the surgery `lift` and `widen`, and their DeiT-Tiny instances.

Importing this module registers `deit_tiny_lift_patch16_224`, `deit_tiny_widelast_patch16_224` and
`deit_tiny_uniform_patch16_224` with `timm.create_model`. Smaller scales are the same architectures with other
arguments (`img_size`, `embed_dim`, `depth`, …).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerScale
from timm.models import build_model_with_cfg, generate_default_cfgs, named_apply, register_model
from timm.models.vision_transformer import (
    Attention,
    Block,
    Mlp,
    VisionTransformer,
    checkpoint_filter_fn,
    get_init_weights_vit,
)
from torch import Tensor, nn


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
        wanted = range(last + 1) if indices is None else indices
        if isinstance(wanted, int):
            wanted = range(last + 1 - wanted, last + 1)
        wanted = sorted({index % (last + 1) for index in wanted})
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


# Students whose classes in the authors' release name no exceptions from weight decay.
ALTERED = (LiftedVisionTransformer, WidenedVisionTransformer)


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
