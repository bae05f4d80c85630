"""Results of a reproduction on ImageNet-1K that measures every published figure, as it is or moved."""

import copy
import math
from pathlib import Path

import yaml
from timm.data import ImageNetInfo

from stages.core.base.files import read_yaml
from stages.core.config.params import Params
from stages.core.evidence.register import expand, read_published
from stages.core.evidence.results import Results
from stages.core.evidence.scales import ELSEWHERE, PAPER, SAMPLE, WORDS
from stages.cost import STUDENTS
from stages.paths import REFERENCE
from stages.tools.compose import composed

ROOT = Path(__file__).resolve().parents[2]
PAPER_DATA, REGISTER = read_published(ROOT / REFERENCE), read_yaml(ROOT / REFERENCE / "claims.yaml")
CLAIMS = {claim.id: claim for claim in expand(REGISTER, PAPER_DATA)}
PROFILE = Params.model_validate(yaml.safe_load(composed("profile=imagenet")))  # the paper's, as it is shipped
WIDTHS = {"baseline": 192, "lift": 384, "widen": 384, "lift_256": 256, "lift_320": 320, "lift_448": 448}
CONFIRMED, CONTRADICTED, OPEN = WORDS[PAPER]
CONSISTENT, INCONSISTENT, _ = WORDS[SAMPLE]
HOLDS_THERE, FAILS_THERE, OPEN_THERE = WORDS[ELSEWHERE]
WORDNET = [ImageNetInfo().index_to_label_name(index) for index in range(1000)]
DATA = {
    "dataset": "imagenet",
    "classes": 1000,
    "class_names": WORDNET,
    "train": {"images": 1_281_167},
    "val": {"images": 50_000, "first_of_class_sha256": PAPER_DATA["sample"]["names_sha256"]},
}


def a_run(strategy: str, objective: str, top1: float, seed: int = 0) -> dict:
    """What is recorded of a run of the profile for ImageNet-1K."""
    architecture, model_args = PROFILE.student.model(strategy, PROFILE.teacher)
    return {
        "strategy": strategy,
        "objective": objective,
        "seed": seed,
        "architecture": architecture,
        "model_args": model_args,
        "width": WIDTHS[strategy],
        "teacher_width": 384,
        "teacher_weights": "pretrained",
        **PROFILE.objective.definitions[objective].model_dump(),
        **PROFILE.recipe.settings(),
        **PROFILE.dataset.evaluation(),
        "top1": top1,
        "top1_best": top1 + 0.05,
        **dict.fromkeys(("own_moved", "own_equal_moved"), 80.0),  # of the way: the feature losses were applied
        "relative_feature_error": None if WIDTHS[strategy] > 384 else 1.0,
    }


def as_published() -> Results:
    """A reproduction on ImageNet-1K, by the shipped profile, that measures every published figure as published."""
    analyses: dict[str, dict] = {"svd": {}, "pca": {}, "sep": {}}
    for name, of in PAPER_DATA["svd_and_pca_dims"].items():
        backbone = "teacher" if name == "CaiT-S24" else of["timm"]
        size = of.get("img_size", 224)
        common = {"architecture": of["timm"], "weights": "pretrained", "input_size": [3, size, size], "images": 1000}
        common |= {"tokens": 49 if "Swin" in name else 196, "channels": of["D"], "source": f"timm/{of['timm']}@0123abc"}
        for analysis, key in (("svd", "per_image"), ("pca", "shared")):
            analyses[analysis][backbone] = common | {"dims_p99": {str(level): n for level, n in of[key].items()}}
        dims = {str(level): n for level, n in PAPER_DATA["sep_dims"][name].items() if isinstance(level, int)}
        analyses["sep"][backbone] = common | {
            "dims": dims,
            "bandwidth": {level: n / of["D"] for level, n in dims.items()},
        }
    top1 = {(row["strategy"], row["objective"]): row["top1"] for row in PAPER_DATA["top1"]}
    top1 |= {(f"lift_{width}", "none"): PAPER_DATA["lift_width_ablation"][width] for width in (256, 320, 448)}
    runs = [a_run(strategy, objective, value) for (strategy, objective), value in top1.items()]
    # Lift to 192 channels, which is published as the baseline's figure, has a run of its own here.
    logs = PAPER_DATA["training_logs"]
    for row in logs["comparable"].values():
        runs.append({**a_run(row["strategy"], row["objective"], row["last"]), "top1_best": row["best"]})
    softkd = {"strategy": "baseline", "objective": "softkd", "seed": 0}
    curves = [softkd | {"epoch": epochs - 1, "top1": value} for epochs, value in logs["softkd_by_epoch"].items()]
    narrow = {"strategy": "lift_192", "width": 192, "model_args": {"img_size": 224, "lift_width": 192}}
    runs.append({**a_run("lift", "none", PAPER_DATA["lift_width_ablation"][192]), **narrow})
    cost = {
        name: {"architecture": STUDENTS[name], "parameters": of["params"], "flops": of["flops"]}
        for name, of in PAPER_DATA["cost"].items()
    }
    teacher = {"architecture": "cait_s24_224", "weights": "pretrained"}
    return Results(copy.deepcopy(DATA), analyses, runs, cost, teacher, differences=[], curves=curves)


# The published setting whose run a claim on accuracy is of.
HEADLINE = {"baseline": ("baseline", "none"), "lift": ("lift", "softkd_spectral"), "widen": ("widen", "softkd_mse")}
ABLATION = {"192": "lift_192", "256": "lift_256", "320": "lift_320", "384": "lift", "448": "lift_448"}
OF_ACCURACY = ("headline_top1", "top1", "lift_width", "log_last")
ACCURACIES = [name for name, claim in CLAIMS.items() if claim.id.split("/")[0] in OF_ACCURACY]


def setting_of(claim) -> tuple[str, str]:
    if claim.measure in ("run_top1", "best_epoch_top1", "epoch_top1"):
        strategy, objective = claim.options.get("setting") or (claim.entry["strategy"], claim.entry["objective"])
        return strategy, objective
    return HEADLINE[claim.path[-1]] if claim.measure == "best_top1" else (ABLATION[claim.path[-1]], "none")


def run_of(claim, results: Results) -> dict:
    """The one run that a claim on accuracy means."""
    (run,) = (run for run in results.runs if (run["strategy"], run["objective"]) == setting_of(claim))
    return run


def moved(claim, to: float, interval: tuple[float, float] | None = None) -> Results:
    """Results in which the value that a claim's measure reads is `to`."""
    results = as_published()
    kind, path = claim.measure, claim.path
    if kind in ("analysis_dims", "headline_dims"):
        analysis = "svd" if kind == "headline_dims" else claim.id.split("/")[0]
        level = str(round(100 * float(path[-1]))) if kind == "headline_dims" else path[-1]
        timm = claim.entry["teacher"] if kind == "headline_dims" else claim.backbone["timm"]
        (of,) = [of for of in results.analyses[analysis].values() if of["architecture"] == timm]
        of["dims" if analysis == "sep" else "dims_p99"][level] = to
    elif kind in ("run_top1", "lift_width_top1", "best_top1"):
        run_of(claim, results)["top1"] = to
        if kind == "best_top1" and path[-1] != "baseline":  # the best stays the best
            for run in results.runs:
                run["top1"] = min(run["top1"], to) if run["strategy"] == path[-1] else run["top1"]
    elif kind == "best_epoch_top1":
        run_of(claim, results)["top1_best"] = to
    elif kind == "epoch_top1":
        (row,) = (row for row in results.curves if row["epoch"] == int(path[-1]) - 1)
        row["top1"] = to
    elif kind == "flops_increase":
        results.cost[path[0]]["flops"] = results.cost["baseline"]["flops"] * (1 + to / 100)
    elif kind in ("student_parameters", "student_flops"):
        results.cost[path[0]][kind.removeprefix("student_")] = to
    elif kind == "rank_share":
        for of in results.analyses["svd"].values():
            of["dims_p99"]["95"] = to * min(of["tokens"], of["channels"])
    elif kind == "sep_distance":
        for of in results.analyses["sep"].values():
            channels = of["channels"]
            white = {level: math.ceil(int(level) * channels / 100 - 1e-9) / channels for level in ("70", "80")}
            of["bandwidth"] = white | {"70": white["70"] - to * 0.25 / math.sqrt(channels // 2 + 2)}
    else:
        first, second = (
            (claim.options["first"], claim.options["second"])
            if claim.options
            else (["lift_448", "none"], ["lift", "none"])
        )
        row = {
            "strategy": first[0],
            "objective": first[1],
            "against_strategy": second[0],
            "against_objective": second[1],
        }
        low, high = interval or (to - 0.001, to + 0.001)
        results.differences.append(row | {"difference": to, "low": low, "high": high})
        known = {(run["strategy"], run["objective"]) for run in results.runs}
        for strategy, objective in {tuple(first), tuple(second)} - known:
            if strategy in WIDTHS:
                results.runs.append(a_run(strategy, objective, 75.0))
    return results


def edges(claim) -> list[tuple[float, float]]:
    """For each side on which a claim ends: a value just inside, and one just outside."""
    if claim.figure is not None:
        allowed = max(claim.tolerance.get("absolute", 0), claim.tolerance.get("relative", 0) * claim.figure)
        step = max(1e-6 * claim.figure, 1e-4)
        inside = allowed - step if allowed else 0
        return [(claim.figure + side * inside, claim.figure + side * (allowed + step)) for side in (-1, 1)]
    ((name, bound),) = claim.bounds.items()
    side = 1 if name in ("below", "at_most") else -1
    return [(bound - side * 0.002, bound + side * 0.002)]
