"""The sections of params.yaml that describe models: arguments of an architecture, the teacher, the students.

Importing this module must not import torch.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.core.config.schema import Count, Name, Positive, Recipe, Section, Seed, Share

# Architectures whose last map has embed_dim channels and one token per patch: no hierarchy, no convolutions.
ISOTROPIC = r"cait_|(vit|deit3?)_\w*patch\d"


class ModelArgs(Section):
    """Arguments of a timm model; unset ones keep the architecture's default.

    `widen_width`, `widen_blocks`, `widen_widths` and `widen_heads` are those of `stages.core.models.students.widen`:
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

    `weights: fit` trains it from scratch on the dataset by `recipe`, `pretrained` loads timm's weights of that
    architecture, `random` keeps random weights, for dry runs.
    """

    architecture: Name
    model_args: ModelArgs
    weights: Literal["fit", "pretrained", "random"]
    seed: Seed
    recipe: Recipe | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weights == "fit" and self.recipe is None:
            raise ValueError("weights fit needs a recipe, but recipe is null")
        return self


class Strategy(Section):
    """One kind of student: a timm architecture, and its arguments beside those of `student.base`."""

    architecture: Name
    model_args: ModelArgs


class Student(Section):
    """The students of one scale: the arguments that all share, and one entry per strategy."""

    base: ModelArgs
    ablations: list[Name]
    strategies: Annotated[dict[Name, Strategy], Field(min_length=1)]

    def model(self, strategy: str) -> tuple[str, dict[str, Any]]:
        """The timm architecture of a strategy and its complete arguments."""
        entry = self.strategies[strategy]
        return entry.architecture, self.base.keyword_arguments() | entry.model_args.keyword_arguments()

    def key(self, strategy: str, argument: str) -> str:
        """The dotted key of params.yaml that sets an argument of a strategy."""
        specific = argument in self.strategies[strategy].model_args.keyword_arguments()
        return f"student.strategies.{strategy}.model_args.{argument}" if specific else f"student.base.{argument}"
