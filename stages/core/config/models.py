"""The sections of params.yaml that describe models: arguments of an architecture, the teacher, the students.

Importing this module must not import torch.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.core.base.names import TEACHER
from stages.core.config.schema import Count, Key, Name, NonNegative, Positive, Recipe, Section, Seed, Share

STUDENTS = ("lift", "widelast", "uniform")  # DeiT-Tiny's variants, registered with timm
# Architectures whose last map has embed_dim channels and one token per patch: no hierarchy, no convolutions.
ISOTROPIC = r"cait_|(vit|deit3?)_\w*patch\d"
# Those of the profiles, which go through the whole pipeline.
USUAL = {"cait_s24_224", "deit_tiny_patch16_224"} | {f"deit_tiny_{kind}_patch16_224" for kind in STUDENTS}
CAIT_DEPTH = r"cait_[a-z]+(\d+)_"  # CaiT's names tell how many blocks it has: cait_s24_224
VIT_DEPTH = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}  # and those of ViT and DeiT by size
# Arguments that came later leave what identifies a model without them as it was.
UNLESS_SET = Field(default=None, exclude_if=lambda value: value is None)


class ModelArgs(Section):
    """Arguments of a timm model; unset ones keep the architecture's default.

    `global_pool: avg` lets a VisionTransformer's head read the mean of its patch tokens in the place of its class
    token. With `fc_norm: false` each token goes through the final norm before the mean, as in Lift and as in the plain
    student, of which nothing else differs then; timm's default norms the mean.

    `widen_width`, `widen_blocks`, `widen_widths` and `widen_heads` are those of `stages.core.models.widelast.widen`:
    the last block's width and the number of widened blocks, or the width of each widened block.
    """

    img_size: Count | None = None
    patch_size: Count | None = None
    embed_dim: Count | None = None
    depth: Count | None = None
    num_heads: Count | None = None
    mlp_ratio: Positive | None = None
    init_values: Positive | None = None
    drop_path_rate: Share | None = None
    weight_init: Literal["jax", "jax_nlhb", "moco", "reset"] | None = None
    global_pool: Literal["token", "avg"] | None = UNLESS_SET
    fc_norm: bool | None = UNLESS_SET
    lift_width: Count | None = None
    widen_width: Count | None = None
    widen_blocks: Annotated[int, Field(ge=1, le=1000)] | None = None
    widen_widths: Annotated[list[Count], Field(min_length=1)] | None = None
    widen_heads: Count | None = None

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.img_size and self.patch_size and self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.widen_widths and (self.widen_width or self.widen_blocks):
            raise ValueError("widen_widths lists the width of every widened block; remove widen_width and widen_blocks")
        if self.widen_blocks and self.depth and self.widen_blocks > self.depth:
            raise ValueError(f"widen_blocks {self.widen_blocks} is more than depth {self.depth}")
        if self.widen_widths and self.depth and len(self.widen_widths) > self.depth:
            raise ValueError(f"widen_widths lists {len(self.widen_widths)} blocks, more than depth {self.depth}")
        for width in self._widened():
            heads = self.widen_heads
            if heads is None and self.embed_dim and self.num_heads:  # the channels per head are kept
                heads = width // (self.embed_dim // self.num_heads)
            if heads is not None and (heads == 0 or width % heads):
                key = "num_heads" if self.widen_heads is None else "widen_heads"
                raise ValueError(f"{key}: a block widened to {width} channels cannot have {heads} heads")
        return self

    def _widened(self) -> list[int]:
        """The widths of the widened blocks as `widen` chooses them; the last one alone where embed_dim is unknown."""
        if self.widen_widths:
            return self.widen_widths
        width, base, blocks = self.widen_width, self.embed_dim, self.widen_blocks or 1
        if width is None or base is None:
            return [] if width is None else [width]
        if (width - base) % blocks:
            raise ValueError(
                f"widen_blocks: {blocks} equal steps from embed_dim {base} to widen_width {width} are not whole"
            )
        return [base + step * (width - base) // blocks for step in range(1, blocks + 1)]

    def last_width(self, architecture: str) -> int | None:
        """Channels of the last block's map, or None where only the architecture defines them."""
        if not re.match(ISOTROPIC, architecture):
            return None
        if self.widen_widths:
            return self.widen_widths[-1]
        has_default = re.search("_(lift|widelast)_", architecture)
        return self.lift_width or self.widen_width or (None if has_default else self.embed_dim)

    def keyword_arguments(self) -> dict[str, Any]:
        """The arguments that are set, for `timm.create_model`."""
        return self.model_dump(exclude_none=True)


class Teacher(Section):
    """The model to distil from.

    `weights: fit` trains it from scratch on the dataset by `recipe`, `finetune` trains timm's weights of that
    architecture further, `pretrained` takes them as they are, `random` keeps random weights, for dry runs.
    """

    architecture: Name
    model_args: ModelArgs
    weights: Literal["fit", "finetune", "pretrained", "random"]
    seed: Seed
    recipe: Recipe | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fitted and self.recipe is None:
            raise ValueError(f"weights {self.weights} needs a recipe, but recipe is null")
        return self

    @property
    def fitted(self) -> bool:
        """Whether it is trained here, from scratch or from pretrained weights."""
        return self.weights in ("fit", "finetune")


class Strategy(Section):
    """One kind of student: a timm architecture, and its arguments beside those of `student.base`.

    `architecture: teacher` takes the teacher's architecture and the teacher's arguments in the place of
    `student.base`; `depth_divisor: 2` then takes half of the teacher's blocks, and `copies_teacher` lets training start
    from the teacher's weights: of every second block, and of all that is no block. `feature_weights` are the feature
    losses' weights for this strategy, by objective, in the place of the definitions' own.
    """

    architecture: Name
    model_args: ModelArgs
    depth_divisor: Count | None = None
    copies_teacher: bool = False
    feature_weights: dict[Key, NonNegative] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.of_teacher:
            for key in ("depth_divisor", "copies_teacher"):
                if getattr(self, key):
                    raise ValueError(f"{key} needs architecture: teacher, not {self.architecture}; remove one of them")
        if self.depth_divisor and self.model_args.depth:
            raise ValueError("depth_divisor and model_args.depth both set the depth; remove one of them")
        return self

    @property
    def of_teacher(self) -> bool:
        """Whether architecture and arguments are the teacher's."""
        return self.architecture == TEACHER


class Student(Section):
    """The students of one scale: the arguments that all share, and one entry per strategy.

    A strategy whose architecture does not take an argument of `base` sets it to null.
    """

    base: ModelArgs
    ablations: list[Key]
    strategies: Annotated[dict[Key, Strategy], Field(min_length=1)]

    def model(self, strategy: str, teacher: Teacher) -> tuple[str, dict[str, Any]]:
        """The timm architecture of a strategy and its complete arguments.

        Raises:
            ValueError: the strategy divides the teacher's depth, which is unknown or does not divide.
        """
        entry = self.strategies[strategy]
        own = {name: value for name, value in entry.model_args if name in entry.model_args.model_fields_set}
        if entry.depth_divisor:
            own["depth"] = self._divided_depth(strategy, entry.depth_divisor, teacher)
        shared = teacher.model_args if entry.of_teacher else self.base
        every = shared.keyword_arguments() | own
        architecture = teacher.architecture if entry.of_teacher else entry.architecture
        return architecture, {name: value for name, value in every.items() if value is not None}

    def _divided_depth(self, strategy: str, divisor: int, teacher: Teacher) -> int:
        key = f"student.strategies.{strategy}.depth_divisor"
        depth = teacher.model_args.depth or named_depth(teacher.architecture)
        if depth is None:
            raise ValueError(f"{key}: set teacher.model_args.depth, to the blocks of {teacher.architecture}")
        if depth % divisor:
            raise ValueError(f"{key}: the teacher's {depth} blocks are not a multiple of {divisor}")
        return depth // divisor

    def key(self, strategy: str, argument: str) -> str:
        """The dotted key of params.yaml that sets an argument of a strategy."""
        entry = self.strategies[strategy]
        if argument in entry.model_args.keyword_arguments():
            return f"student.strategies.{strategy}.model_args.{argument}"
        return f"teacher.model_args.{argument}" if entry.of_teacher else f"student.base.{argument}"


def named_depth(architecture: str) -> int | None:
    """The number of blocks that the name of an architecture tells; None where it does not."""
    if named := re.match(CAIT_DEPTH, architecture):
        return int(named[1])
    named = re.match(r"(?:vit|deit3?)_([a-z]+)_patch\d+(?!\d|_\d+x)", architecture)
    return VIT_DEPTH.get(named[1]) if named else None
