"""The sections of params.yaml but those that describe models (`models`): types, names and limits.

Importing this module must not import torch.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stages.core.base.names import TEACHER, Run
from stages.core.config.feature_losses import feature_losses, known_feature_loss, takes_any_width
from stages.core.config.policies import check_policy

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Percent = Annotated[int, Field(ge=1, le=99)]
WORDS = {"true", "false", "yes", "no", "on", "off", "null", "nan", "inf"}  # that YAML or Hydra take for no text
# Latin, Greek and Cyrillic: letters of the figures' font that are written from left to right.
LETTER = r"[0-9A-Za-z\u00c0-\u024f\u0370-\u037d\u0386-\u03ff\u0400-\u04ff\u1e00-\u1ef9]"
SIGNS = " _.,+-/&'()"  # that mean nothing to matplotlib, Markdown and HTML, an underscore within a word alone
LABEL = 32  # characters of a dataset's name, which stands in one line on the smallest figure
LONGEST = 64  # characters: two names, a seed and a digest make a folder's name, which may have 255
HUB = "hfds/"  # a reader that begins so is a Hugging Face dataset
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


def _rising(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the bounds fall from {bounds[0]:g} to {bounds[1]:g}; write the lower one first")
    return bounds


def _reader(name: str) -> str:
    if not re.fullmatch(rf"digits|folder|tar|local|{HUB}(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"must be one of digits, folder, tar, local, {HUB}OWNER/NAME")
    return name


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", name):
        raise ValueError("must be of the characters A-Z, a-z, 0-9, _ and . alone, and not begin with .")
    return name


def _key(name: str) -> str:
    """Check a name that is a key of params.yaml, a step of dotted keys, a part of runs' names and a legend's entry.

    DVC and Hydra take a dot or a bracket for a step into a mapping, and YAML some digits for a number (1e3); run names
    join names by hyphens; matplotlib leaves what begins with an underscore out of legends.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        sign = next((sign for sign in name if not re.match(r"[A-Za-z0-9_]", sign)), None)
        reason = "does not begin with a letter" if sign is None else f"holds {sign!r}"
        raise ValueError(
            f"the name {reason}, which DVC, YAML, run names or legends read in their own way; "
            "take a letter, then letters, digits and _"
        )
    if name.lower() in WORDS:
        raise ValueError("YAML and Hydra do not take this name for text; choose another")
    if len(name) > LONGEST:
        raise ValueError(f"the name has more than {LONGEST} characters; shorten it")
    return name


def _label(name: str) -> str:
    """Check a dataset's name, which figures, pages, tables and model cards show as it is."""
    for sign in name:
        if sign not in SIGNS and not (sign.isalnum() and re.match(LETTER, sign)):
            raise ValueError(
                f"holds {sign!r}, which figures and pages do not show as it is; "
                f"take Latin, Greek or Cyrillic letters, digits, spaces and {SIGNS.strip()}"
            )
    if not re.match(LETTER, name) or name.endswith(" ") or re.search(rf"(?<!{LETTER})_|_(?!{LETTER})", name):
        raise ValueError("must begin with a letter or digit, not end with a space, and have _ within words alone")
    if len(name) > LABEL:
        raise ValueError(f"has more than {LABEL} characters; shorten it")
    return name


Name = Annotated[str, AfterValidator(_name)]  # safe in a path and in a stage's name
Key = Annotated[str, AfterValidator(_key)]  # of a strategy or an objective
Label = Annotated[str, AfterValidator(_label)]
Reader = Annotated[str, AfterValidator(_reader)]
Policy = Annotated[str, AfterValidator(check_policy)]
Interval = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(_rising)]


class Section(BaseModel):
    """A mapping of params.yaml: its keys are exactly the fields, its values exactly of their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Dataset(Section):
    """Images, and how a model sees them. `label` is the dataset's name in metrics and in the audit."""

    reader: Reader
    watch: list[Literal["images"]]  # [] if no images are outside the repository
    label: Label
    classes: Annotated[int, Field(ge=2)]
    train_split: Name | None  # null where nothing is trained
    val_split: Name
    val_images: Count | None  # for the embedded dataset; other datasets come with their splits
    split_seed: Seed
    held_out: Annotated[float, Field(gt=0, lt=1)] | None  # share of the training split to validate on instead
    columns: Annotated[list[str], Field(min_length=2, max_length=2)] | None  # of images and labels, for hfds/NAME
    unreadable: Literal["stop", "skip"]  # at a training image that cannot be decoded; validation stops
    image_size: Count
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    mean: Channels
    std: Channels

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train_split == self.val_split:
            raise ValueError("train_split and val_split must not be the same")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if (self.reader == "digits") != (self.val_images is not None):
            raise ValueError("val_images must be set for the embedded dataset (digits), and null for others")
        if self.train_split is None and (self.reader == "digits" or self.held_out is not None):
            raise ValueError("train_split must be set for the embedded dataset (digits), and where held_out is")
        if self.held_out is not None and self.reader == "digits":
            raise ValueError("held_out must be null for the embedded dataset (digits), which has val_images")
        if len(self.watch) != (self.reader != "digits"):
            raise ValueError("watch must be [images], or [] for the embedded dataset (digits)")
        if self.columns is not None and not self.reader.startswith(HUB):
            raise ValueError("columns must be null, except for a Hugging Face dataset (hfds/NAME)")
        return self

    @property
    def on_hub(self) -> str | None:
        """The dataset's name on the Hugging Face Hub; None if it is not from there."""
        return self.reader.removeprefix(HUB) if self.reader.startswith(HUB) else None

    def evaluation(self) -> dict[str, Any]:
        """How images are evaluated, by the names of EVALUATION_SETTINGS."""
        return {name: getattr(self, name.removeprefix("eval_")) for name in EVALUATION_SETTINGS}


class Augment(Section):
    """Training augmentation: by timm's `create_transform`, or by `stages.core.train.device_augmentation`."""

    on_device: bool  # keep all images on the device and augment them there; the random draws differ from timm's
    padding: Annotated[int, Field(ge=0)]  # pixels added around an image before the crop; only with on_device
    scale: Interval  # area of the crop, as a share of the image
    ratio: Interval  # width over height of the crop
    hflip: Share
    color_jitter: NonNegative
    auto_augment: Policy | None
    random_erasing: Share
    repeats: Count  # repeated augmentation: how many differently augmented copies of an image an epoch has
    interpolation: Literal["nearest", "bilinear", "bicubic", "random"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.on_device and (self.auto_augment is not None or self.interpolation == "random"):
            raise ValueError("auto_augment must be null, and interpolation not random, where on_device is true")
        if self.padding and not self.on_device:
            raise ValueError("padding needs on_device: true")
        return self


class Recipe(Section):
    """How a model is trained: everything that changes the result, and which epochs' models are kept.

    Four keys choose between this project's default, named first, and what the authors' release does:

    schedule: the learning rate changes with every optimizer step, or once per epoch: then epoch n trains at the
        schedule's value for n − 1, since the release steps timm's scheduler after each epoch.
    decay_embeddings: whether position embedding and class token are decayed like matrices: never, as timm does, or
        in Lift and WideLast students only, whose classes in the release exclude nothing.
    ema_start: the averaged weights start from the weights after the first step, or from the initial ones.
    teacher_precision: the teacher's weights are rounded to `precision`, or stay float32 under autocast.
    """

    epochs: Count
    epoch_steps: Count | None  # the most optimizer steps of an epoch, for dry runs; null uses all images
    global_batch: Count
    lr: Positive
    weight_decay: NonNegative
    decay_embeddings: Literal["never", "lift_and_widen"]
    schedule: Literal["step", "epoch"]
    warmup_epochs: Annotated[int, Field(ge=0)]
    warmup_lr: NonNegative
    min_lr: NonNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_grad: Positive | None
    precision: Literal["float32", "bfloat16"]
    teacher_precision: Literal["rounded", "autocast"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    ema_start: Literal["first_step", "initial"]
    position_std: Positive | None  # standard deviation of the initial position embedding; null keeps timm's 0.02
    keep_epochs: list[Count] = []  # numbers of epochs after which the model is kept, too; this changes no result
    augment: Augment

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.keep_epochs != sorted(set(self.keep_epochs)):
            raise ValueError(f"keep_epochs {self.keep_epochs} must rise, each epoch once")
        if self.keep_epochs and self.keep_epochs[-1] > self.epochs:
            raise ValueError(f"keep_epochs: {self.keep_epochs[-1]} is beyond the run's {self.epochs} epochs")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of the {self.epochs} epochs")
        if self.min_lr > self.lr or self.warmup_lr > self.lr:
            raise ValueError("min_lr and warmup_lr must not exceed lr")
        return self

    def settings(self) -> dict[str, Any]:
        """Every setting that changes the result, those of `augment` included: what metrics.json and runs.csv record."""
        return {**self.model_dump(exclude={"augment", "keep_epochs"}), **self.augment.model_dump()}


# The columns of runs.csv for `Recipe.settings`, and for `Dataset.evaluation`.
RECIPE_SETTINGS = tuple(
    name for name in (*Recipe.model_fields, *Augment.model_fields) if name not in ("augment", "keep_epochs")
)
EVALUATION_SETTINGS = tuple(f"eval_{name}" for name in ("image_size", "crop_pct", "interpolation"))


FeatureLoss = Annotated[
    str,
    AfterValidator(known_feature_loss),
    Field(json_schema_extra=lambda schema: schema.update(enum=[*feature_losses()])),
]


class Objective(Section):
    """L = (1 - alpha)·CE + alpha·tau²·KL(teacher‖student) + feature_weight·L_feature."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # stages/conf/README.md shows them

    alpha: Share
    """The weight of the teacher's soft labels; that of the labels is 1 - alpha."""
    tau: Positive
    """The temperature of soft labels."""
    feature: FeatureLoss | None
    """L_feature: the mean over `blocks` of a loss between the student's and the teacher's patch-token maps."""
    feature_weight: NonNegative
    """The weight of L_feature."""
    wider: Literal["refuse", "pool"] = "refuse"
    """What a loss that compares channel by channel does with a student wider than its teacher: `refuse` says so before
    training, `pool` average-pools the student's channels to the teacher's width, as the authors' release does. (A
    narrower student is compared with the teacher's channels pooled to its width.)"""
    projector: Literal["linear", "frozen", "orthogonal"] | None = None
    """A linear map to the teacher's width through which the student's tokens are read; the saved model does not hold
    it. `linear` is trained with the student, `frozen` keeps its random initialisation, `orthogonal` is trained and has
    orthonormal rows."""
    project_equal: bool = True
    """Whether a student as wide as its teacher is read through the projector too."""
    target: Literal["features", "balanced", "principal"] = "features"
    """The teacher's features as they are; `balanced`: centred and rotated so that all channels have one variance over
    the training images (PHI-S); or `principal`: along the leading directions that the tokens of the training images
    share, not centred, as many as the student has channels."""
    blocks: Annotated[list[Literal["first", "last"]], Field(min_length=1)] = ["last"]
    """Which blocks are compared."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.feature is None:
            for name in ("feature_weight", "projector"):
                if getattr(self, name):
                    raise ValueError(f"{name} is set, but feature is null")
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"blocks: {self.blocks} has the same value twice")
        if self.projector is not None and self.target == "principal":
            raise ValueError(f"target must be features or balanced where there is a projector ({self.projector})")
        if self.projector is not None and self.wider == "pool":
            raise ValueError(f"wider must be refuse where there is a projector ({self.projector})")
        return self

    @property
    def distils(self) -> bool:
        """Whether it uses a teacher."""
        return self.alpha != 0 or self.feature is not None

    @property
    def refuses_wider(self) -> bool:
        """Whether a student wider than its teacher cannot be trained with this objective."""
        if self.feature is None or self.projector in ("linear", "frozen"):
            return False
        return self.projector == "orthogonal" or (not takes_any_width(self.feature) and self.wider == "refuse")


class Selection(Section):
    """What to train: the names that the chosen options of a group select together.

    `label` is what `dvc exp show` prints: the options' own names.
    """

    label: str
    options: Annotated[dict[Name, list[Key]], Field(min_length=1)]
    names: Annotated[list[Key], Field(min_length=1)]


SeedKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)$")]  # YAML's keys of a mapping for DVC are strings
RunName = Annotated[str, Field(pattern=r"^[^-]+-[^-]+-(0|[1-9][0-9]*)$")]


class Block(Section):
    """Runs of every strategy with every objective and every seed."""

    strategies: Annotated[list[Key], Field(min_length=1)]
    objectives: Annotated[list[Key], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]


class Grid(Section):
    """What is trained: of the runs of all blocks those whose strategy and objective are chosen.

    `runs` lists the names of each seed's runs, for the items of DVC's stage `train`.
    """

    blocks: list[Block]
    runs: dict[SeedKey, Annotated[list[RunName], Field(min_length=1)]]

    def listed(self) -> list[Run]:
        """The runs: the seeds of a setting one after the other, settings in the order in which they are listed."""
        listed = [Run.named(name) for names in self.runs.values() for name in names]
        settings = list(dict.fromkeys(run.setting for run in listed))
        return sorted(listed, key=lambda run: (settings.index(run.setting), run.seed))

    def of_seed(self, seed: int) -> list[Run]:
        """The runs of one seed, which stage `train` trains side by side."""
        return [Run.named(name) for name in self.runs.get(str(seed), [])]


class Objectives(Selection):
    """Which objectives to train with, and what each one means."""

    definitions: dict[Key, Objective]


class Analysis(Section):
    """Which features are analysed; how is in the section of each analysis, its `Params` in `stages.core.analysis`.

    Those sections are checked where they are known: `stages.core.config.params.check`.

    A backbone is "teacher" or a timm name; `weights` applies to the timm models. `img_size` replaces a timm model's own
    input size. The backbones in `layerwise` are analysed block by block, the others only in their last block. Those in
    `classifiers` have a head for the dataset's classes, so that top-1 is measured too. These three may name models that
    are not analysed.
    """

    model_config = ConfigDict(extra="allow")

    backbones: Annotated[list[Name], Field(min_length=1)]
    layerwise: list[Name]
    classifiers: list[Name]
    weights: Literal["pretrained", "random"]
    img_size: dict[Name, Count]
    images_per_class: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if TEACHER in self.img_size:
            raise ValueError("img_size: set the teacher's by teacher.model_args.img_size")
        return self

    def section(self, analysis: str) -> Any:
        """The section of an analysis: its `Params` where that was known to the check, else as it was read."""
        return getattr(self, analysis)
