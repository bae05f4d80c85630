"""The schema of params.yaml: types, names and limits, checked before any work.

Unknown keys, wrong types and impossible values end in one line that names the key. Importing this
module takes about 0.1 s: it must not import torch.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.core.errors import UserError
from stages.core.files import read_yaml
from stages.core.names import TEACHER

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


# timm's policies (timm/data/auto_augment.py), with a pattern and an example of the sections that each takes. timm
# passes over some sections that it does not understand, and learns of others at the first image.
NUMBER = r"\d{1,3}(\.\d{1,6})?"
SECTIONS = {
    "rand": (
        rf"m\d{{1,3}}|n([1-9]|1[0-4])|p(0(\.\d{{1,6}})?|1(\.0)?)|mstd{NUMBER}|mmax[1-9]\d{{0,2}}|inc[01]|t(weights|3aw?)",
        "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-tweights",
    ),
    "augmix": (rf"m\d{{1,3}}|w[1-9]|d\d|a(?!0(\.0+)?$){NUMBER}|b[01]|mstd{NUMBER}", "augmix-m3-w3-d2-a1-b0-mstd0.5"),
    **{name: (f"mstd{NUMBER}", f"{name}-mstd0.5") for name in ("original", "originalr", "v0", "v0r", "3a")},
}


def _policy(text: str) -> str:
    policy, *sections = text.split("-")
    if policy not in SECTIONS:
        raise ValueError(f"begins with none of timm's policies {', '.join(SECTIONS)}; null for none")
    pattern, example = SECTIONS[policy]
    keys = []
    for section in sections:
        if not re.fullmatch(pattern, section, re.ASCII):
            raise ValueError(f"{section!r} is no section of timm's {policy}; it takes those of {example}")
        keys.append("t" if section.startswith("t") else section.rstrip("0123456789."))
    if len(set(keys)) < len(keys):
        raise ValueError("says one section twice")
    return text


Reader = Annotated[str, AfterValidator(_reader)]
Policy = Annotated[str, AfterValidator(_policy)]
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
        """The widths of the widened blocks, as `stages.core.students.widen` steps, or of the last one alone."""
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

    def given(self) -> dict[str, Any]:
        """The arguments that are set, for `timm.create_model`."""
        return self.model_dump(exclude_none=True)


class Augment(Section):
    """Training augmentation: by timm's `create_transform`, or on the device by `stages.core.resident`."""

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
        """The keyword arguments that `stages.core.training.fit` takes from the recipe."""
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
        return entry.architecture, self.base.given() | entry.model_args.given()

    def key(self, strategy: str, argument: str) -> str:
        """Where params say an argument of a strategy."""
        own = argument in self.strategies[strategy].model_args.given()
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
    """Which strategies to train; `label` is what `dvc exp show` prints."""

    label: str
    names: Annotated[list[Name], Field(min_length=1)]


class Objectives(Selection):
    """Which objectives to train with, and what each one means."""

    definitions: dict[Name, Objective]


class Levels(Section):
    """Energy thresholds, in percent."""

    thresholds: Annotated[list[Percent], Field(min_length=1)]


class Pca(Levels):
    """Dataset PCA, and single tokens in its basis beside tokens of a Gaussian."""

    gaussian_tokens: Count
    seed: Seed


class Sep(Levels):
    """Spectral Energy Pattern, with its null model of random channel orders and bootstrap intervals over images."""

    permutations: Count
    resamples: Count
    seed: Seed


class Rotation(Section):
    """Angles between the subspaces that hold `level` percent of an image's energy, of at most `pairs` pairs a kind."""

    level: Percent
    pairs: Count
    seed: Seed


class Analysis(Section):
    """Which features are analysed, and how.

    A backbone is "teacher" or a timm name, whose weights are as `weights` says. `img_size` replaces a timm model's own
    input size; it may name models that are not analysed. The backbones in `layerwise` are analysed block by block, the
    others in their last block.
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.layerwise:
            if name not in [TEACHER, *self.backbones]:
                raise ValueError(f"layerwise: '{name}' is none of backbones: {', '.join(self.backbones)}")
        if TEACHER in self.img_size:
            raise ValueError("img_size: the teacher's is teacher.model_args.img_size")
        return self


class Params(Section):
    """All of params.yaml."""

    profile: Name
    dataset: Dataset
    teacher: Teacher
    student: Student
    strategy: Selection
    objective: Objectives
    seeds: Annotated[list[Seed], Field(min_length=1)]
    recipe: Recipe
    analysis: Analysis

    @model_validator(mode="after")
    def _names(self) -> Self:
        known: dict[str, tuple[list[str], Mapping[str, Any], str]] = {
            "strategy.names": (self.strategy.names, self.student.strategies, "student.strategies"),
            "objective.names": (self.objective.names, self.objective.definitions, "objective.definitions"),
            "student.ablations": (self.student.ablations, self.student.strategies, "student.strategies"),
        }
        for key, (names, entries, place) in known.items():
            for name in names:
                if name not in entries:
                    raise ValueError(f"{key}: '{name}' is none of {place}: {', '.join(entries)}")
        repeatable: dict[str, Sequence[Any]] = {key: names for key, (names, _, _) in known.items()} | {
            "seeds": self.seeds,
            "analysis.backbones": self.analysis.backbones,
            "analysis.layerwise": self.analysis.layerwise,
            "analysis.svd.thresholds": self.analysis.svd.thresholds,
            "analysis.pca.thresholds": self.analysis.pca.thresholds,
            "analysis.sep.thresholds": self.analysis.sep.thresholds,
        }
        for key, values in repeatable.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: {values} names one value twice")
        for strategy in self.student.strategies:
            try:
                ModelArgs(**self.student.model(strategy)[1])
            except ValidationError as error:
                raise ValueError(f"student.strategies.{strategy}: {_reason(error.errors()[0])}") from None
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        """Teacher and students take the dataset's images, and a feature loss can compare their maps.

        What params leave to the architecture is checked before a training, by `stages.core.objectives`.
        """
        pixels, teacher = self.dataset.image_size, self.teacher.model_args
        students = {strategy: ModelArgs(**self.student.model(strategy)[1]) for strategy in self.strategy.names}
        sizes = {"teacher.model_args.img_size": teacher.img_size} | {
            self.student.key(strategy, "img_size"): student.img_size for strategy, student in students.items()
        }
        for key, size in sizes.items():
            if size not in (None, pixels):
                raise ValueError(f"{key}: {size} is not dataset.image_size, {pixels}; make them equal")
        compared = [name for name in self.objective.names if self.objective.definitions[name].feature is not None]
        if compared:
            for strategy, student in students.items():
                self._check_maps(strategy, student, compared[0])
        return self

    def _check_maps(self, strategy: str, student: ModelArgs, objective: str) -> None:
        (architecture, arguments), teacher = self.student.model(strategy), self.teacher.model_args
        width, least = student.last_width(architecture), teacher.last_width(self.teacher.architecture)
        if width and least and width > least:
            argument = next(name for name in ("lift_width", "widen_width", "embed_dim") if name in arguments)
            raise ValueError(
                f"{self.student.key(strategy, argument)}: {width} channels are more than the teacher's {least}, and "
                f"objective.names: {objective} compares the two; lower it, or leave {strategy} or {objective} out"
            )
        patches = [
            args.patch_size if re.match(ISOTROPIC, name) else None
            for name, args in ((architecture, student), (self.teacher.architecture, teacher))
        ]
        if None not in patches and patches[0] != patches[1]:
            raise ValueError(
                f"{self.student.key(strategy, 'patch_size')}: patches of {patches[0]} make another grid than "
                f"teacher.model_args.patch_size, {patches[1]}, and objective.names: {objective} compares the two"
            )


def _reason(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is no key of params.yaml; mend its spelling or remove it"
    return error["msg"].removeprefix("Value error, ")


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, a type is wrong, a
            value is impossible; the text names every such key.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no parameters; compose it with `python -m stages.compose`")
    try:
        return Params.model_validate(raw)
    except ValidationError as invalid:
        faults = []
        for error in invalid.errors(include_url=False):
            key = ".".join(str(part) for part in error["loc"])
            value = error.get("input")
            shown = f" (got {value!r})" if key and isinstance(value, str | int | float | bool | None) else ""
            if error["type"] in ("missing", "extra_forbidden"):
                shown = ""
            faults.append(f"{key + ': ' if key else ''}{_reason(error)}{shown}")
        raise UserError(f"{path}: " + "; ".join(faults)) from None
