"""What a run must be for its figures to count for a claim.

A name says little: a run may be called `lift` and have another width, or one epoch. Requirements look at what was
trained and analysed, as metrics and tables record it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.base.files import names_digest
from stages.core.base.names import BASELINE, DIGITS, TEACHER
from stages.core.config.schema import EVALUATION_SETTINGS, RECIPE_SETTINGS
from stages.core.evidence.claims import Claim
from stages.core.evidence.results import Results, Run

ANY_RUN = "nothing"  # what a claim requires that any run can judge, without having trained or analysed anything
MIN_WIDTH_RATIO = 2  # of teacher to student, for the paper's words to be about such a pair

# The arguments of the paper's students; a run that does not set one has its architecture's default, which is the same.
STUDENT_ARGUMENTS = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 192,
    "depth": 12,
    "num_heads": 3,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,
}

STRATEGY_ARGUMENTS: dict[str, Callable[[int], dict[str, int]]] = {
    "baseline": lambda width: {},
    "lift": lambda width: {"lift_width": width},
    "widen": lambda width: {"widen_width": width, "widen_blocks": 1, "widen_heads": width // 64},
}

# The release computes in float16 with a loss scaler; bfloat16, which needs none, stands for it.
PRECISIONS = {"fp16 autocast": "bfloat16"}


@dataclass(frozen=True)
class PaperStudent:
    """A student of the paper, as a claim speaks of it: a strategy, and the width of its last map."""

    strategy: str
    width: int


@dataclass(frozen=True)
class Requirement:
    """What a run must be, in words, and functions that return the reason why one is not; each may be absent.

    Attributes:
        words: what must hold.
        of_results: checks a whole reproduction.
        of_backbone: checks the analysis of one backbone.
        of_run: checks one run against a student of the paper.
    """

    words: str
    of_results: Callable[[Claim, Results], str | None] = lambda claim, results: None
    of_backbone: Callable[[Claim, Mapping[str, Any]], str | None] = lambda claim, analysed: None
    of_run: Callable[[Claim, Results, Run, PaperStudent], str | None] = lambda claim, results, run, student: None


def _not_imagenet(claim: Claim, results: Results) -> str | None:
    data, classes = results.data, claim.paper["data"]["classes"]
    if data["dataset"] != "imagenet":
        return f"this run uses {data['dataset']}, the claim is about ImageNet-1K"
    if data["classes"] == classes:
        return None
    return f"this run's imagenet is not ImageNet-1K: classes {data['classes']:,} instead of {classes:,}"


def _other_images(claim: Claim, results: Results) -> str | None:
    """Accuracies are of all images: those that were trained on, and those of the validation."""
    if not results.runs:
        return "no student was trained"
    other = []
    for part in ("train", "val"):
        found, count = results.data.get(part, {}).get("images", 0), claim.paper["data"][f"{part}_images"]
        other += [f"{part}_images {found:,} instead of {count:,}"] if found != count else []
    return f"this run's imagenet is not ImageNet-1K: {', '.join(other)}" if other else None


def _other_names(claim: Claim, results: Results) -> str | None:
    """The paper's sample is the first validation image of each class: known by the names of the files."""
    found = results.data.get("val", {}).get("first_of_class_sha256")
    if found == claim.paper["sample"]["names_sha256"]:
        return None
    unknown = "are not recorded" if found is None else "are not those of ImageNet's validation images"
    return f"the names of each class's first image {unknown}: it is not known to be the paper's sample"


def _other_classes(claim: Claim, results: Results) -> str | None:
    found = names_digest(sorted(results.data.get("class_names", [])))
    if found in claim.paper["data"]["class_names_sha256"]:
        return None
    return "the class folders are not named by ImageNet's WordNet ids: it is not known to be a sample of its classes"


def _too_small(claim: Claim, results: Results) -> str | None:
    small = results.data["dataset"] == DIGITS
    return f"this run uses {DIGITS}, which is too small to judge by" if small else None


def _few_tokens(claim: Claim, results: Results) -> str | None:
    of = results.analyses["svd"].get(TEACHER)
    if of is None:
        return None
    widths = [run["width"] for run in results.runs]
    width = min(widths, default=of["channels"] // MIN_WIDTH_RATIO)
    student = f"the narrowest student has channels ({width})" if widths else f"a student half as wide has ({width})"
    if of["tokens"] > width:
        return None
    return (
        f"an image has {of['tokens']} tokens, no more than {student}: their number bounds its rank, whatever it shows"
    )


def _other_sample(claim: Claim, analysed: Mapping[str, Any]) -> str | None:
    if images_of_the_figure(claim) == 1:
        return "the paper's value is of one image, and which one is not said"
    images = claim.paper["sample"]["images"]
    if analysed["images"] != images:
        name = analysed["architecture"]
        return f"{name} was analysed on {analysed['images']:,} images, the paper's sample is {images:,}"
    return _other_weights(claim, analysed)


def _unlike_sample(claim: Claim, analysed: Mapping[str, Any]) -> str | None:
    return None if images_of_the_figure(claim) == 1 else _other_sample(claim, analysed)


def images_of_the_figure(claim: Claim) -> int:
    """How many images a published value of the analyses is of."""
    row = claim.paper["sep_dims"].get(claim.path[0], {}) if claim.id.startswith("sep/") else {}
    return int(row.get("images", claim.paper["sample"]["images"]))


def _other_weights(claim: Claim, analysed: Mapping[str, Any]) -> str | None:
    """Pretrained weights count with their source: the hub's of that name, an address, or a file of the user's."""
    name, source = str(analysed["architecture"]), analysed.get("source")
    if analysed["weights"] != "pretrained":
        return f"{name}: weights are {analysed['weights']}, the claim is about pretrained ones"
    if source is None:
        return f"{name}: where its weights come from is not recorded"
    repository, _, revision = source.partition("@")
    architecture, _, tag = repository.rpartition("/")[2].partition(".")
    wanted, _, wanted_tag = name.partition(".")
    if revision and (architecture != wanted or (wanted_tag and tag != wanted_tag)):
        return f"{name}: its weights are {source}, another model's"
    return None


def _other_teacher(claim: Claim, analysed: Mapping[str, Any]) -> str | None:
    teacher, found = claim.paper["headline"]["teacher"], str(analysed["architecture"]).partition(".")[0]
    if found != teacher:
        return f"the teacher is {found}, the paper's is {teacher}"
    size, wanted = analysed["input_size"][-1], claim.paper["recipe"]["eval"]["crop"]
    return None if size == wanted else f"{found} was analysed at {size} pixels, the claim is about {wanted}"


def _no_mismatch(claim: Claim, results: Results) -> str | None:
    plain = next((run for run in results.runs if run["strategy"] == BASELINE), None)
    if plain is None:
        return f"no run of {BASELINE}"
    if plain["teacher_weights"] == "random":
        return "the teacher's weights are random"
    if MIN_WIDTH_RATIO * plain["width"] > plain["teacher_width"]:
        return f"the teacher is {plain['teacher_width']} wide, less than twice the student's {plain['width']}"
    limited = next((run["epoch_steps"] for run in results.runs if run.get("epoch_steps") is not None), None)
    return None if limited is None else f"epochs have at most {limited} steps: a dry run"


def _other_training(claim: Claim, results: Results, run: Run, student: PaperStudent) -> str | None:
    name = f"{run['strategy']} with {run['objective']}"
    published = published_recipe(claim.paper) | _published_objective(claim.paper, run["objective"])
    published |= {"architecture": results.cost[student.strategy]["architecture"], "teacher_weights": "pretrained"}
    missing = next((key for key in (*published, "model_args") if key not in run), None)
    if missing:
        return f"{name}: its {missing} is not recorded"
    arguments = STUDENT_ARGUMENTS | STRATEGY_ARGUMENTS[student.strategy](student.width)
    teacher = str(results.teacher["architecture"]).partition(".")[0]  # timm's tag names weights
    compared = [(key, run[key], value) for key, value in published.items()]
    compared += [(key, value, arguments.get(key)) for key, value in run["model_args"].items()]
    compared.append(("teacher", teacher, claim.paper["headline"]["teacher"]))
    other = [
        f"{key} {_text(found)}, the paper's {_text(value)}"
        for key, found, value in compared
        if not _equal(found, value)
    ]
    return f"{name}: {'; '.join(other)}" if other else None


def published_recipe(paper: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's recipe as a run of this project records it: a value for every setting of recipe and evaluation."""
    recipe = paper["recipe"]
    schedule, augment, evaluation = recipe["schedule"], recipe["augment"], recipe["eval"]
    settings = {
        **{key: recipe[key] for key in ("epochs", "global_batch", "lr", "weight_decay", "label_smoothing")},
        **{key: schedule[key] for key in ("warmup_epochs", "warmup_lr", "min_lr")},
        "epoch_steps": None,
        "schedule": schedule["per"],
        "decay_embeddings": "lift_and_widen" if recipe["decayed_embeddings"] == ["lift", "widen"] else "never",
        "clip_grad": None if recipe["clip_grad"] == "none" else recipe["clip_grad"],
        "precision": PRECISIONS.get(recipe["precision"], recipe["precision"]),
        "teacher_precision": "autocast" if recipe["teacher_weights"] == "float32" else "rounded",
        "ema_decay": recipe["model_ema"],
        "ema_start": recipe["model_ema_start"],
        "position_std": None,  # timm's 0.02
        "on_device": False,  # other random draws, and no RandAugment
        "padding": 0,
        **{key: augment[key] for key in ("scale", "ratio", "hflip", "color_jitter", "random_erasing", "interpolation")},
        "auto_augment": augment["randaugment"],
        "repeats": recipe["repeated_augmentation"],
        "eval_image_size": evaluation["crop"],
        "eval_crop_pct": evaluation["crop"] / evaluation["resize"],
        "eval_interpolation": evaluation["interpolation"],
    }
    return {name: settings[name] for name in (*RECIPE_SETTINGS, *EVALUATION_SETTINGS)}


def _published_objective(paper: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an objective of the paper's name is, by the columns of runs.csv."""
    distillation, parts = paper["recipe"]["distillation"], name.split("_")
    feature = next((part for part in parts if part in ("mse", "spectral")), None)
    soft = {key: distillation[key] for key in ("alpha", "tau")} if "softkd" in parts else {"alpha": 0.0}
    plain = {"projector": None, "target": "features", "blocks": ["last"]} if feature else {}
    return {**soft, "feature": feature, "feature_weight": distillation["feature_weight"] if feature else 0.0, **plain}


def _equal(found: Any, published: Any) -> bool:
    if isinstance(published, Sequence) and not isinstance(published, str):
        return isinstance(found, Sequence) and len(found) == len(published) and all(map(_equal, found, published))
    if isinstance(found, str | bool) or None in (found, published):
        return bool(found == published)
    return math.isclose(found, published, rel_tol=1e-5)  # tables are written with six digits


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


REQUIREMENTS = {
    ANY_RUN: Requirement("any run"),
    "imagenet": Requirement("ImageNet-1K", of_results=_not_imagenet),
    "sample": Requirement(
        "the paper's sample of images, published weights", of_results=_other_names, of_backbone=_other_sample
    ),
    "like_sample": Requirement(
        "another sample of one image of each class, published weights",
        of_results=_other_classes,
        of_backbone=_unlike_sample,
    ),
    "paper_teacher": Requirement("the paper's teacher", of_backbone=_other_teacher),
    "training": Requirement(
        "the paper's students, teacher and recipe", of_results=_other_images, of_run=_other_training
    ),
    "study": Requirement(f"any images but {DIGITS}", of_results=_too_small),
    "tokens": Requirement("more tokens in an image than channels in the narrowest student", of_results=_few_tokens),
    "mismatch": Requirement(
        "a trained teacher at least twice as wide as the student, whole epochs", of_results=_no_mismatch
    ),
}


def unmet_requirement(claim: Claim, kind: str, *checked: Any) -> str | None:
    """The reason why the first unmet requirement of a claim is not met; None where all are met.

    Args:
        claim: the claim.
        kind: "of_results", "of_backbone" or "of_run", as in `Requirement`.
        checked: the further arguments of that function.
    """
    reasons = (getattr(REQUIREMENTS[name], kind)(claim, *checked) for name in claim.requires)
    return next(filter(None, reasons), None)
