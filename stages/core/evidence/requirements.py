"""What a claim speaks of, what was measured, and what a run must be for its figures to count.

A name says little: a run may be called `lift` and be of another width, or of one epoch. Needs look at what was run,
as metrics and tables record it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.core.base.names import BASELINE, DIGITS
from stages.core.evidence.claims import Claim
from stages.core.evidence.results import Results, Run

WIDER = 2  # the least ratio of the teacher's width to the student's for the paper's words to be of such a pair

# The arguments of the paper's students; those that a run does not name are its architecture's own, which are these.
STUDENT = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 192,
    "depth": 12,
    "num_heads": 3,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,
}

OF_STRATEGY: dict[str, Callable[[int], dict[str, int]]] = {
    "baseline": lambda width: {},
    "lift": lambda width: {"lift_width": width},
    "widen": lambda width: {"widen_width": width, "widen_blocks": 1, "widen_heads": width // 64},
}


@dataclass(frozen=True)
class Student:
    """A student of the paper, as a claim speaks of it: a strategy, and the width of its last map."""

    strategy: str
    width: int


@dataclass(frozen=True)
class Need:
    """What a run must be, in words, and the functions that give the reason why one is not; each may be absent.

    Attributes:
        words: what must be.
        of_results: of the whole reproduction.
        of_backbone: of what an analysis says of one backbone.
        of_run: of one run, as that student of the paper.
    """

    words: str
    of_results: Callable[[Claim, Results], str | None] = lambda claim, results: None
    of_backbone: Callable[[Claim, Mapping[str, Any]], str | None] = lambda claim, analysed: None
    of_run: Callable[[Claim, Results, Run, Student], str | None] = lambda claim, results, run, student: None


def _no_imagenet(claim: Claim, results: Results) -> str | None:
    data, published = results.data, claim.paper["data"]
    if data["dataset"] != "imagenet":
        return f"this run is of {data['dataset']}, the claim is of ImageNet-1K"
    found = {"classes": data["classes"]} | {f"{part}_images": data[part]["images"] for part in ("train", "val")}
    other = [f"{count:,} {key} are {found[key]:,}" for key, count in published.items() if found[key] != count]
    return f"this run's imagenet is not ImageNet-1K, whose {', '.join(other)}" if other else None


def _no_study(claim: Claim, results: Results) -> str | None:
    small = results.data["dataset"] == DIGITS
    return f"this run is of {DIGITS}, too small to judge by" if small else None


def _other_sample(claim: Claim, analysed: Mapping[str, Any]) -> str | None:
    images = claim.paper["sample"]["images"]
    if analysed["images"] == images:
        return None
    return f"{analysed['architecture']} was analysed on {analysed['images']:,} images, the paper's sample is {images:,}"


def _no_pair(claim: Claim, results: Results) -> str | None:
    plain = next((run for run in results.runs if run["strategy"] == BASELINE), None)
    if plain is None:
        return f"no run of {BASELINE}"
    if plain["teacher_weights"] == "random":
        return "the teacher's weights are random"
    if WIDER * plain["width"] > plain["teacher_width"]:
        return f"the teacher is {plain['teacher_width']} wide, less than twice the student's {plain['width']}"
    limited = next((run["epoch_steps"] for run in results.runs if run.get("epoch_steps") is not None), None)
    return None if limited is None else f"epochs are of at most {limited} steps: a dry run"


def _other_training(claim: Claim, results: Results, run: Run, student: Student) -> str | None:
    named = f"{run['strategy']} with {run['objective']}"
    published = _recipe(claim) | _objective(claim, run["objective"])
    published |= {"architecture": results.cost[student.strategy]["architecture"], "teacher_weights": "pretrained"}
    unknown = next((key for key in (*published, "model_args") if key not in run), None)
    if unknown:
        return f"{named}: its {unknown} is not recorded"
    arguments = STUDENT | OF_STRATEGY[student.strategy](student.width)
    teacher = str(results.teacher["architecture"]).partition(".")[0]  # timm's tag names weights
    pairs = [(key, run[key], value) for key, value in published.items()]
    pairs += [(key, value, arguments.get(key)) for key, value in run["model_args"].items()]
    pairs.append(("teacher", teacher, claim.paper["headline"]["teacher"]))
    other = [
        f"{key} {_said(found)}, the paper's {_said(value)}" for key, found, value in pairs if not _equal(found, value)
    ]
    return f"{named}: {'; '.join(other)}" if other else None


def _recipe(claim: Claim) -> dict[str, Any]:
    """The paper's recipe by the columns of runs.csv."""
    recipe = claim.paper["recipe"]
    return {
        "epochs": recipe["epochs"],
        "epoch_steps": None,
        "global_batch": recipe["global_batch"],
        "lr": recipe["lr"],
        "weight_decay": recipe["weight_decay"],
        **{key: recipe["schedule"][key] for key in ("warmup_epochs", "warmup_lr", "min_lr")},
        "label_smoothing": recipe["label_smoothing"],
        "clip_grad": None,
        "repeats": recipe["repeated_augmentation"],
        "auto_augment": recipe["augment"]["randaugment"],
        "random_erasing": recipe["augment"]["random_erasing"],
    }


def _objective(claim: Claim, name: str) -> dict[str, Any]:
    """What an objective of the paper's name is, by the columns of runs.csv."""
    distillation, parts = claim.paper["recipe"]["distillation"], name.split("_")
    feature = next((part for part in parts if part in ("mse", "spectral")), None)
    soft = {key: distillation[key] for key in ("alpha", "tau")} if "softkd" in parts else {"alpha": 0.0}
    return {**soft, "feature": feature, "feature_weight": distillation["feature_weight"] if feature else 0.0}


def _equal(found: Any, published: Any) -> bool:
    if isinstance(found, str) or None in (found, published):
        return bool(found == published)
    return math.isclose(found, published, rel_tol=1e-5)  # tables are written with six digits


def _said(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


NEEDS = {
    "nothing": Need("any run"),
    "imagenet": Need("ImageNet-1K", of_results=_no_imagenet),
    "sample": Need("the paper's sample of images, published weights", of_backbone=_other_sample),
    "training": Need("the paper's students, teacher and recipe", of_run=_other_training),
    "study": Need(f"any images but {DIGITS}", of_results=_no_study),
    "pair": Need("a trained teacher at least twice as wide as the student, whole epochs", of_results=_no_pair),
}


def unmet(claim: Claim, kind: str, *of: Any) -> str | None:
    """Why a claim cannot be judged, by the first of its needs that is not met; None where all are.

    Args:
        claim: the claim.
        kind: "of_results", "of_backbone" or "of_run", as in `Need`.
        of: the further arguments of that function.
    """
    reasons = (getattr(NEEDS[need], kind)(claim, *of) for need in claim.needs)
    return next(filter(None, reasons), None)
