"""The sections of params.yaml: types, names and limits. Importing this module must not import torch."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stages.core.base.names import TEACHER
from stages.core.config.policies import check_policy

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Percent = Annotated[int, Field(ge=1, le=99)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]*$")]  # safe in a path and in a stage's name
HUB = "hfds/"  # a reader that begins so is a Hugging Face dataset
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


def _rising(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the bounds fall from {bounds[0]:g} to {bounds[1]:g}; write the lower one first")
    return bounds


def _reader(name: str) -> str:
    if not re.fullmatch(rf"digits|folder|tar|{HUB}(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"is none of digits, folder, tar, {HUB}OWNER/NAME")
    return name


Reader = Annotated[str, AfterValidator(_reader)]
Policy = Annotated[str, AfterValidator(check_policy)]
Interval = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(_rising)]
# Architectures whose last map is as wide as embed_dim says, with a token for each patch: no hierarchy, no convolutions.
ISOTROPIC = r"cait_|(vit|deit3?)_\w*patch\d"


class Section(BaseModel):
    """A mapping of params.yaml: its keys are exactly the fields, its values exactly of their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Dataset(Section):
    """Images and how a model sees them. `label` is what metrics and the audit know the dataset by."""

    reader: Reader
    watch: list[Literal["images"]]  # empty where there are no images outside the repository
    label: str
    classes: Annotated[int, Field(ge=2)]
    train_split: Name
    val_split: Name
    val_images: Count | None  # of the embedded dataset; the splits of others are as they are
    split_seed: Seed
    held_out: Annotated[float, Field(gt=0, lt=1)] | None  # share of the training split that is validated on instead
    columns: Annotated[list[str], Field(min_length=2, max_length=2)] | None  # of images and labels, for hfds/NAME
    unreadable: Literal["stop", "skip"]  # in training, of an image that cannot be decoded; validation stops
    image_size: Count
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    mean: Channels
    std: Channels

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train_split == self.val_split:
            raise ValueError("train_split and val_split name the same folder")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if (self.reader == "digits") != (self.val_images is not None):
            raise ValueError("val_images belongs to the embedded dataset (digits) and only to it")
        if self.held_out is not None and self.reader == "digits":
            raise ValueError("held_out belongs to external datasets; the embedded one (digits) has val_images")
        if len(self.watch) != (self.reader != "digits"):
            raise ValueError("watch must be [images], or [] for the embedded dataset (digits)")
        if self.columns is not None and not self.reader.startswith(HUB):
            raise ValueError("columns belong to a Hugging Face dataset (hfds/NAME) and only to it")
        return self


class ModelArgs(Section):
    """Arguments of a timm model; the unset ones keep the architecture's own values."""

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
    widen_heads: Count | None = None

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.img_size and self.patch_size and self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.widen_blocks and self.depth and self.widen_blocks > self.depth:
            raise ValueError(f"widen_blocks {self.widen_blocks} is more than depth {self.depth}")
        for width in self._widened():
            heads = self.widen_heads
            if heads is None and self.embed_dim and self.num_heads:  # the channels per head are kept
                heads = width // (self.embed_dim // self.num_heads)
            if heads is not None and (heads == 0 or width % heads):
                key = "num_heads" if self.widen_heads is None else "widen_heads"
                raise ValueError(f"{key}: a block widened to {width} channels cannot have {heads} heads")
        return self

    def _widened(self) -> list[int]:
        """The widths of the widened blocks, as `stages.core.models.students.widen` steps, or of the last one alone."""
        width, base, blocks = self.widen_width, self.embed_dim, self.widen_blocks or 1
        if width is None or base is None:
            return [] if width is None else [width]
        if (width - base) % blocks:
            raise ValueError(
                f"widen_blocks: {blocks} equal steps from embed_dim {base} to widen_width {width} are not whole"
            )
        return [base + step * (width - base) // blocks for step in range(1, blocks + 1)]

    def last_width(self, architecture: str) -> int | None:
        """Channels of the last block's map, or None where only the architecture knows."""
        if not re.match(ISOTROPIC, architecture):
            return None
        own = re.search("_(lift|widelast)_", architecture)
        return self.lift_width or self.widen_width or (None if own else self.embed_dim)

    def keyword_arguments(self) -> dict[str, Any]:
        """The arguments that are set, for `timm.create_model`."""
        return self.model_dump(exclude_none=True)


class Augment(Section):
    """Training augmentation: by timm's `create_transform`, or on the device by `stages.core.train.resident`."""

    on_device: bool  # all images stay on the device, and are augmented there with other draws than timm's
    padding: Annotated[int, Field(ge=0)]  # pixels around an image before the crop; on the device only
    scale: Interval
    ratio: Interval
    hflip: Share
    color_jitter: NonNegative
    auto_augment: Policy | None
    random_erasing: Share
    repeats: Count  # repeated augmentation: how often an image stands in an epoch, each time augmented anew
    interpolation: Literal["nearest", "bilinear", "bicubic", "random"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.on_device and (self.auto_augment is not None or self.interpolation == "random"):
            raise ValueError("auto_augment must be null, and interpolation not random, where on_device is true")
        if self.padding and not self.on_device:
            raise ValueError("padding needs on_device: true")
        return self


class Recipe(Section):
    """How a model is fitted: everything that changes the result."""

    epochs: Count
    epoch_steps: Count | None  # the most optimizer steps of an epoch, for dry runs; null sees all images
    global_batch: Count
    lr: Positive
    weight_decay: NonNegative
    warmup_epochs: Annotated[int, Field(ge=0)]
    warmup_lr: NonNegative
    min_lr: NonNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_grad: Positive | None
    precision: Literal["float32", "bfloat16"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    position_std: Positive | None  # of the initial position embedding; null keeps timm's 0.02
    augment: Augment

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of the {self.epochs} epochs")
        if self.min_lr > self.lr or self.warmup_lr > self.lr:
            raise ValueError("min_lr and warmup_lr must not exceed lr")
        return self

    def optimization(self) -> dict[str, Any]:
        """The keyword arguments that `stages.core.train.loop.fit` takes from the recipe."""
        names = (
            "epochs",
            "lr",
            "weight_decay",
            "warmup_epochs",
            "warmup_lr",
            "min_lr",
            "clip_grad",
            "precision",
        )
        return {name: getattr(self, name) for name in (*names, "ema_decay")}


class Teacher(Section):
    """The model to distil from.

    `weights: fit` trains it from scratch on the dataset by `recipe`, `pretrained` takes timm's weights of that
    name, `random` leaves them random: a dry run.
    """

    architecture: Name
    model_args: ModelArgs
    weights: Literal["fit", "pretrained", "random"]
    seed: Seed
    recipe: Recipe | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weights == "fit" and self.recipe is None:
            raise ValueError("weights fit needs a recipe, and recipe is null")
        return self


class Strategy(Section):
    """One kind of student: a timm architecture and what it adds to the base arguments."""

    architecture: Name
    model_args: ModelArgs


class Student(Section):
    """The students of one scale: arguments that all share, and one entry per strategy."""

    base: ModelArgs
    ablations: list[Name]
    strategies: Annotated[dict[Name, Strategy], Field(min_length=1)]

    def model(self, strategy: str) -> tuple[str, dict[str, Any]]:
        """The timm architecture of a strategy and its complete arguments."""
        entry = self.strategies[strategy]
        return entry.architecture, self.base.keyword_arguments() | entry.model_args.keyword_arguments()

    def key(self, strategy: str, argument: str) -> str:
        """Where params say an argument of a strategy."""
        own = argument in self.strategies[strategy].model_args.keyword_arguments()
        return f"student.strategies.{strategy}.model_args.{argument}" if own else f"student.base.{argument}"


class Objective(Section):
    """L = (1 - alpha)·CE + alpha·tau²·KL(teacher‖student) + feature_weight·L_feature."""

    alpha: Share
    tau: Positive
    feature: Literal["mse", "spectral"] | None
    feature_weight: NonNegative

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.feature is None and self.feature_weight:
            raise ValueError("feature_weight is set, but feature is null")
        return self


class Selection(Section):
    """What to train: the names that the chosen options of a group select together.

    `label` is what `dvc exp show` prints: the options' own names.
    """

    label: str
    options: Annotated[dict[Name, list[Name]], Field(min_length=1)]
    names: Annotated[list[Name], Field(min_length=1)]


class Objectives(Selection):
    """Which objectives to train with, and what each one means."""

    definitions: dict[Name, Objective]


class Levels(Section):
    """Energy thresholds, in percent."""

    thresholds: Annotated[list[Percent], Field(min_length=1)]


class Pca(Levels):
    """Dataset PCA, and single tokens in its basis beside Gaussian tokens."""

    gaussian_tokens: Count
    seed: Seed


class Sep(Levels):
    """Spectral Energy Pattern, its null model of random channel orders, and bootstrap intervals over images."""

    permutations: Count
    resamples: Count
    seed: Seed


class Rotation(Section):
    """Angles between subspaces that hold `level` percent of an image's energy, for at most `pairs` pairs per kind."""

    level: Percent
    pairs: Count
    seed: Seed


class Rank(Section):
    """Dims that accuracy needs: `points` counts of dimensions, and shares of the whole top-1, in percent."""

    points: Annotated[int, Field(ge=2)]
    shares: Annotated[list[Percent], Field(min_length=1)]


class Analysis(Section):
    """Which features are analysed, and how.

    A backbone is "teacher" or a timm name; `weights` applies to the timm models. `img_size` replaces a timm model's own
    input size; it may name models that are not analysed. The backbones in `layerwise` are analysed block by block, the
    others only in their last block.
    """

    backbones: Annotated[list[Name], Field(min_length=1)]
    layerwise: list[Name]
    weights: Literal["pretrained", "random"]
    img_size: dict[Name, Count]
    images_per_class: Count
    svd: Levels
    pca: Pca
    sep: Sep
    rotation: Rotation
    rank: Rank

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.layerwise:
            if name not in [TEACHER, *self.backbones]:
                raise ValueError(f"layerwise: '{name}' is not one of backbones: {', '.join(self.backbones)}")
        if TEACHER in self.img_size:
            raise ValueError("img_size: set the teacher's by teacher.model_args.img_size")
        return self
