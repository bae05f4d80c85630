"""The register of claims: every claim's verdict flips when what was measured is moved across its tolerance."""

import copy
import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
from reproduction import (
    ACCURACIES,
    CLAIMS,
    CONFIRMED,
    CONTRADICTED,
    DATA,
    PAPER_DATA,
    PROFILE,
    REGISTER,
    a_run,
    as_published,
    edges,
    moved,
    run_of,
)

from stages import audit
from stages.core.base.errors import UserError
from stages.core.evidence.claims import FAMILIES
from stages.core.evidence.comparison import RUN_COLUMNS, runs_table
from stages.core.evidence.measures import MEASURES
from stages.core.evidence.register import expand
from stages.core.evidence.requirements import images_of_the_figure, published_recipe
from stages.core.evidence.results import read_runs
from stages.core.evidence.scales import ELSEWHERE, NOT_MEASURED, PAPER, WORDS
from stages.core.evidence.training_logs import published_curves
from stages.core.evidence.verdicts import judge

# Claims that a value decides, at the paper's own setting.
DECIDED = [
    name
    for name, claim in CLAIMS.items()
    if claim.measure not in ("published", "shared_over_per_image") and images_of_the_figure(claim) > 1
]


@pytest.mark.parametrize("name", DECIDED)
def test_every_verdict_flips_at_its_tolerance(name):
    claim = CLAIMS[name]
    where = PAPER
    for inside, outside in edges(claim):
        for value, word in ((inside, WORDS[where].holds), (outside, WORDS[where].fails)):
            verdict = judge(claim, moved(claim, value))
            assert (verdict["where"], verdict["verdict"]) == (where, word), (value, verdict)


@pytest.mark.parametrize("name", ACCURACIES)
def test_an_accuracy_is_of_the_run_that_the_claim_means(name):
    claim = CLAIMS[name]
    rivals = claim.path[-1] if claim.measure == "best_top1" and claim.path[-1] != "baseline" else None
    for far in (20.0, 99.0):
        results = as_published()
        mine = run_of(claim, results)
        for run in results.runs:
            if run is not mine:
                run["top1"] = 20.0 if run["strategy"] == rivals else far
        verdict = judge(claim, results)
        assert (verdict["verdict"], verdict["measured"]) == (CONFIRMED, claim.figure)
        mine["top1"] -= 1
        verdict = judge(claim, results)
        assert (verdict["verdict"], verdict["measured"]) == (CONTRADICTED, claim.figure - 1)


@pytest.mark.parametrize("name", ACCURACIES)
def test_seeds_are_averaged_and_none_is_picked(name):
    claim, results = CLAIMS[name], as_published()
    mine = run_of(claim, results)
    results.runs.append({**mine, "seed": 1, "top1": mine["top1"] + 4})
    verdict = judge(claim, results)
    assert (verdict["verdict"], verdict["measured"]) == (CONTRADICTED, pytest.approx(claim.figure + 2))
    results.runs.append({**mine, "seed": 2, "top1": mine["top1"] - 4})
    verdict = judge(claim, results)
    assert (verdict["verdict"], verdict["measured"]) == (CONFIRMED, pytest.approx(claim.figure))


@pytest.mark.parametrize("strategy", ["lift", "widen"])
def test_a_best_setting_is_told_only_among_all_published_ones(strategy):
    claim, results = CLAIMS[f"headline_top1/top1/{strategy}"], as_published()
    lost = next(run for run in results.runs if (run["strategy"], run["objective"]) == (strategy, "softkd"))
    results.runs.remove(lost)
    verdict = judge(claim, results)
    assert verdict["verdict"] == NOT_MEASURED
    assert verdict["reason"] == (
        f"4 of 5 published settings of {strategy} were trained as published: no run of {strategy} with softkd"
    )


def test_accuracies_are_read_from_the_tables_that_summarize_writes(tmp_path):
    results = as_published()
    rows = [{"run": f"{run['strategy']}-{run['objective']}-0", **run} for run in results.runs]
    runs_table(rows).to_csv(tmp_path / "runs.csv", index=False, float_format="%.6g", lineterminator="\n")
    parts = {**results.analyses, "cost": results.cost, "teacher": results.teacher, "data": results.data}
    for part, content in parts.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    assert "lift_448-none-0" in (tmp_path / "runs.csv").read_text()
    with (tmp_path / "runs.csv").open(newline="") as file:
        wide = {row["strategy"]: row["relative_feature_error"] for row in csv.DictReader(file)}
    assert wide["lift_448"] == ""  # wider than its teacher: no feature error
    found = audit.read_results(tmp_path, tmp_path / "data.json")
    assert {judge(CLAIMS[name], found)["verdict"] for name in ACCURACIES} == {CONFIRMED}


def args(run: dict, **changes) -> None:
    run["model_args"] = run["model_args"] | changes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run, results: run.update(epochs=1), "epochs 1, the paper's 300"),
        (lambda run, results: run.update(epoch_steps=2), "epoch_steps 2, the paper's none"),
        (lambda run, results: run.update(global_batch=64), "global_batch 64, the paper's 2048"),
        (lambda run, results: run.update(lr=1e-3), "lr 0.001, the paper's 0.002"),
        (lambda run, results: run.update(clip_grad=1.0), "clip_grad 1, the paper's none"),
        (lambda run, results: run.update(auto_augment=None), "auto_augment none, the paper's rand-m9-mstd0.5-inc1"),
        (lambda run, results: run.update(feature_weight=2.0), "feature_weight 2, the paper's 0.2"),
        (lambda run, results: run.update(alpha=0.9), "alpha 0.9, the paper's 0"),
        (lambda run, results: run.update(teacher_weights="random"), "teacher_weights random, the paper's pretrained"),
        (lambda run, results: run.update(architecture="vit_tiny_patch16_224"), "architecture vit_tiny_patch16_224, "),
        (lambda run, results: args(run, lift_width=64), "lift_width 64, the paper's 384"),
        (lambda run, results: args(run, embed_dim=384), "embed_dim 384, the paper's 192"),
        (lambda run, results: args(run, init_values=0.1), "init_values 0.1, the paper's none"),
        (lambda run, results: results.teacher.update(architecture="cait_s36_384"), "teacher cait_s36_384, the paper's"),
        (lambda run, results: run.pop("global_batch"), "its global_batch is not recorded"),
        (lambda run, results: run.pop("model_args"), "its model_args is not recorded"),
    ],
)
def test_a_run_of_another_training_measures_no_accuracy(change, reason):
    claim, results = CLAIMS["top1/lift/mse"], as_published()
    run = run_of(claim, results)
    run["top1"] = 50.0
    assert judge(claim, results)["verdict"] == CONTRADICTED
    change(run, results)
    verdict = judge(claim, results)
    assert (verdict["verdict"], verdict["measured"]) == (NOT_MEASURED, None)
    assert reason in verdict["reason"] and verdict["reason"].startswith("lift with mse: ")


# Another value of every setting that a run records of its recipe and of its evaluation.
OTHER_SETTINGS = {
    "epochs": 299,
    "epoch_steps": 625,
    "global_batch": 1024,
    "lr": 2.001e-3,
    "weight_decay": 0.03,
    "decay_embeddings": "never",
    "schedule": "step",
    "warmup_epochs": 20,
    "warmup_lr": 0.0,
    "min_lr": 0.0,
    "label_smoothing": 0.0,
    "clip_grad": 1.0,
    "precision": "float32",
    "teacher_precision": "rounded",
    "ema_decay": None,
    "ema_start": "first_step",
    "position_std": 0.3,
    "on_device": True,
    "padding": 4,
    "scale": [0.35, 1.0],
    "ratio": [1.0, 1.0],
    "hflip": 0.0,
    "color_jitter": 0.0,
    "auto_augment": "rand-m9-mstd0.5",
    "random_erasing": 0.0,
    "repeats": 1,
    "interpolation": "random",
    "eval_image_size": 256,
    "eval_crop_pct": 0.9,
    "eval_interpolation": "bilinear",
}


def test_the_imagenet_profile_is_the_published_recipe_in_every_setting():
    recorded = {**PROFILE.recipe.settings(), **PROFILE.dataset.evaluation()}
    assert published_recipe(PAPER_DATA) == recorded
    assert set(OTHER_SETTINGS) == set(recorded) and set(recorded) <= set(RUN_COLUMNS)


def test_a_run_that_differs_in_any_setting_of_the_recipe_is_not_the_papers(tmp_path):
    claim = CLAIMS["top1/widen/mse"]
    for setting, value in OTHER_SETTINGS.items():
        results = as_published()
        run_of(claim, results)[setting] = value
        for runs in (results.runs, written_and_read(results.runs, tmp_path)):
            verdict = judge(claim, dataclasses.replace(results, runs=runs))
            assert verdict["verdict"] == NOT_MEASURED, setting
            assert verdict["reason"].startswith(f"widen with mse: {setting} "), verdict["reason"]


def written_and_read(runs, folder: Path) -> list[dict]:
    rows = [{"run": f"{run['strategy']}-{run['objective']}-0", **run} for run in runs]
    runs_table(rows).to_csv(folder / "runs.csv", index=False, float_format="%.6g", lineterminator="\n")
    return read_runs(folder / "runs.csv")


def test_a_setting_of_any_kind_is_read_back_as_it_was_recorded(tmp_path):
    odd = {"strategy": "1e5", "objective": "true", "clip_grad": None, "hflip": 1.0, "scale": [0.08, 1.0]}
    (found,) = written_and_read([a_run("lift", "mse", 75.0) | odd | {"on_device": True}], tmp_path)
    assert {key: found[key] for key in odd} == odd
    assert found["on_device"] is True and found["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert found["model_args"] == PROFILE.student.model("lift", PROFILE.teacher)[1]


def test_a_published_curve_is_of_the_epochs_that_the_log_counts():
    claim, results = CLAIMS["log_epoch/softkd_by_epoch/10"], as_published()
    assert judge(claim, results)["measured"] == 32.71
    assert "epoch 9" in judge(claim, results)["evidence"]["metric"]  # curves.csv counts from 0
    results.curves.pop(0)
    assert "does not hold epoch 9 of every run" in judge(claim, results)["reason"]
    results = as_published()
    run_of(claim, results)["epochs"] = 100
    assert judge(claim, results)["reason"] == "baseline with softkd: epochs 100, the paper's 300"


def test_a_published_curve_is_shown_beside_runs_of_the_papers_recipe_alone():
    results = as_published()
    softkd, spectral = published_curves(results, PAPER_DATA)
    assert (softkd.strategy, softkd.objective, softkd.runs) == ("baseline", "softkd", 1)
    assert softkd.top1[10] == 32.71 and softkd.top1[300] == 76.95 and len(softkd.top1) == 8
    assert (spectral.objective, spectral.top1) == ("softkd_spectral", {300: 76.79})
    of_spectral = [run for run in results.runs if run["objective"] == "softkd_spectral"]
    next(run for run in of_spectral if run["strategy"] == "baseline")["hflip"] = 0.0
    assert published_curves(results, PAPER_DATA) == [softkd]
    results.data["dataset"] = "cifar100"
    assert published_curves(results, PAPER_DATA) == []


def test_arguments_that_are_the_architectures_own_are_the_papers():
    claim, results = CLAIMS["top1/widen/mse"], as_published()
    args(run_of(claim, results), widen_heads=6, widen_blocks=1, depth=12)
    results.teacher["architecture"] = "cait_s24_224.fb_dist_in1k"
    assert judge(claim, results)["verdict"] == CONFIRMED
    args(run_of(claim, results), widen_heads=3)
    assert "widen_heads 3, the paper's 6" in judge(claim, results)["reason"]


def test_one_seed_of_another_training_spoils_the_mean():
    claim, results = CLAIMS["lift_width/448"], as_published()
    results.runs.append({**run_of(claim, results), "seed": 1, "epochs": 1})
    assert judge(claim, results)["reason"] == "lift_448 with none: epochs 1, the paper's 300"


def test_other_images_measure_no_published_figure():
    of_imagenet = [claim for claim in CLAIMS.values() if "imagenet" in claim.requires]
    of_training = [claim for claim in of_imagenet if "training" in claim.requires]
    for change, concerned, reason in (
        ({"classes": 10}, of_imagenet, "not ImageNet-1K: classes 10 instead of 1,000"),
        ({"val": DATA["val"] | {"images": 450}}, of_training, "not ImageNet-1K: val_images 450 instead of 50,000"),
        ({"train": {"images": 10}}, of_training, "not ImageNet-1K: train_images 10 instead of 1,281,167"),
        ({"dataset": "imagenet, held-out part"}, of_imagenet, "this run uses imagenet, held-out part"),
    ):
        results = as_published()
        results.data.update(change)
        for claim in concerned:
            verdict = judge(claim, results)
            assert verdict["where"] in ((ELSEWHERE, None) if claim.elsewhere else (None,))
            assert claim.elsewhere or reason in verdict["reason"]


@pytest.mark.parametrize("name", ["worded/low_rank/teacher", "worded/low_rank/fourteen", "worded/shared_basis/teacher"])
def test_a_threshold_that_was_not_measured_is_named(name):
    results = as_published()
    for analysis in ("svd", "pca"):
        for of in results.analyses[analysis].values():
            del of["dims_p99"]["95"]
    verdict = judge(CLAIMS[name], results)
    assert (verdict["verdict"], verdict["reason"]) == (NOT_MEASURED, "no threshold of 95 %")


STAND_FOR = {
    "params": "parameters",
    "architecture_params": "parameters",
    "top1": "top-1",
    "flops_increase": "more FLOPs",
}


def test_every_statement_says_what_its_figure_is():
    statements = [claim.statement for claim in CLAIMS.values()]
    assert len(set(statements)) == len(statements) == len(expand(REGISTER, PAPER_DATA))
    for claim in CLAIMS.values():
        assert "{" not in claim.statement
        if claim.figure is None:
            continue
        family = [other.path for other in CLAIMS.values() if other.id.split("/")[0] == claim.id.split("/")[0]]
        distinguishing = {key for place, key in enumerate(claim.path) if len({path[place] for path in family}) > 1}
        for key in {*distinguishing, claim.path[-1]} - {"shared", "per_image"}:
            words = key.split("-") if claim.measure == "run_top1" and key != "top1" else [STAND_FOR.get(key, key)]
            assert all(word.casefold() in claim.statement.casefold() for word in words), (claim.id, claim.statement)


def test_rows_of_the_papers_table_are_found_wherever_they_stand():
    assert CLAIMS["consistent_lift/384"].options["other"] == "top1.lift-none.top1"
    turned = {**PAPER_DATA, "top1": PAPER_DATA["top1"][::-1]}
    claims = {claim.id: claim for claim in expand(REGISTER, turned)}
    assert judge(claims["consistent_lift/384"], as_published())["measured"] == 75.41
    assert {name: claim.figure for name, claim in claims.items()} == {
        name: claim.figure for name, claim in CLAIMS.items()
    }


def test_the_published_material_is_set_against_itself():
    verdicts = {name: judge(claim, as_published()) for name, claim in CLAIMS.items() if claim.measure == "published"}
    assert {name: verdict["verdict"] for name, verdict in verdicts.items()} == {
        "consistent_parameters/widen/params": CONTRADICTED,
        "consistent_baseline/192": CONFIRMED,
        "consistent_distilled_baseline/top1/baseline": CONTRADICTED,
        "consistent_lift/384": CONFIRMED,
    }
    paper = copy.deepcopy(PAPER_DATA)
    paper["cost"]["widen"]["architecture_params"] = paper["cost"]["widen"]["params"]
    paper["headline"]["top1"]["baseline"] -= 0.01
    changed = {claim.id: judge(claim, as_published())["verdict"] for claim in expand(REGISTER, paper)}
    assert changed["consistent_parameters/widen/params"] == CONFIRMED
    assert changed["consistent_baseline/192"] == CONTRADICTED


def test_the_published_tables_lie_within_the_bounds_of_the_words():
    names = [name for name in CLAIMS if name.startswith(("worded/low_rank", "worded/shared", "worded/sep"))]
    assert len(names) == 5
    verdicts = {name: judge(CLAIMS[name], as_published())["verdict"] for name in names}
    assert verdicts.pop("worded/shared_basis/teacher") == WORDS[PAPER].open
    assert set(verdicts.values()) == {CONFIRMED}


DIFFERENCES = [name for name, claim in CLAIMS.items() if claim.measure in ("top1_difference", "wider_than_teacher")]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_counts_only_with_its_whole_interval(name):
    claim = CLAIMS[name]
    (bound,) = claim.bounds.values()
    words = WORDS[PAPER]
    verdict = judge(claim, moved(claim, bound, (bound - 0.5, bound + 0.5)))
    assert verdict["verdict"] == words.open and verdict["reason"].startswith("no difference shown: interval")
    assert verdict["measured"] == bound and verdict["evidence"]["figure"] == "differences"
    unknown = judge(claim, moved(claim, bound, (math.nan, math.nan)))
    assert unknown["verdict"] == words.open and unknown["interval"] == [None, None]


def test_a_difference_is_found_whichever_way_round_it_stands():
    claim = CLAIMS["worded/widen_beats_lift/mse"]
    results = moved(claim, 0.5, (0.25, 0.75))
    row = results.differences[0]
    row |= {"strategy": "lift", "against_strategy": "widen", "difference": -0.5, "low": -0.75, "high": -0.25}
    verdict = judge(claim, results)
    assert (verdict["verdict"], verdict["measured"], verdict["interval"]) == (CONFIRMED, 0.5, [0.25, 0.75])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda results: results.runs[0].update(teacher_width=256), "less than twice"),
        (lambda results: results.runs[0].update(teacher_weights="random"), "weights are random"),
        (lambda results: results.runs.clear(), "no run of baseline"),
        (lambda results: results.runs[0].update(epoch_steps=2), "at most 2 steps: a dry run"),
        (
            lambda results: next(run for run in results.runs if run["strategy"] == "widen").update(width=320),
            "widen is 320 wide, the paper's is as wide as its teacher, 384",
        ),
        (
            lambda results: results.runs[0].update(architecture="vit_tiny_patch16_224"),
            "baseline is vit_tiny_patch16_224, the paper's is deit_tiny_patch16_224",
        ),
        (lambda results: results.differences.clear(), "differences.csv is missing"),
        (lambda results: results.differences[0].update(strategy="uniform"), "no comparison of widen-none"),
    ],
)
def test_another_scale_or_a_missing_run_judges_no_difference(change, reason):
    claim = CLAIMS["worded/helps_without_teacher/widen"]
    results = moved(claim, 1.0)
    assert judge(claim, results)["verdict"] == CONFIRMED
    for run in results.runs:
        run["epochs"] = 30  # at another scale
    assert judge(claim, results)["verdict"] == WORDS[ELSEWHERE].holds
    change(results)
    verdict = judge(claim, results)
    assert verdict["verdict"] == NOT_MEASURED and reason in verdict["reason"] and verdict["evidence"] is None


def test_a_verdict_says_that_variances_differ():
    claim = CLAIMS["worded/gains/lift"]
    results = moved(claim, 1.0)
    assert "variances" not in judge(claim, results)["reason"]
    results.differences[0]["equal_variances_p"] = 0.01
    verdict = judge(claim, results)
    assert verdict["verdict"] == CONFIRMED and "variances differ between settings" in verdict["reason"]


def test_the_widest_lift_is_found_by_what_it_is_and_not_by_its_name():
    claim = CLAIMS["worded/wider_than_teacher"]
    results = moved(claim, -0.2)
    assert judge(claim, results)["verdict"] == CONFIRMED
    for run in results.runs:
        run["strategy"] = {"lift_448": "broad"}.get(run["strategy"], run["strategy"])
    results.differences[0]["strategy"] = "broad"
    assert judge(claim, results)["verdict"] == CONFIRMED
    next(run for run in results.runs if run["strategy"] == "broad")["architecture"] = "deit_tiny_patch16_224"
    assert judge(claim, results)["reason"] == "no Lift to more than 384 channels on labels alone"


def test_every_backbone_is_needed_to_confirm_and_one_to_contradict():
    claim = CLAIMS["worded/sep_diagonal/fourteen"]
    results = moved(claim, 0.01)
    del results.analyses["sep"]["vit_base_patch16_224.dino"]
    verdict = judge(claim, results)
    assert verdict["verdict"] == NOT_MEASURED and "13 of 14 backbones were analysed" in verdict["reason"]
    results.analyses["sep"]["vit_base_patch16_224.mae"]["bandwidth"]["80"] = 0.7
    assert judge(claim, results)["verdict"] == CONTRADICTED


def test_every_claim_is_of_one_family_and_no_family_is_empty():
    assert {claim.family for claim in CLAIMS.values()} == {*FAMILIES}
    for claim in CLAIMS.values():  # the students' accuracies go by strategy, whatever table they are published in
        strategy = claim.entry.get("strategy")
        if claim.id.startswith("top1/"):
            assert claim.family == ("naive distillation" if strategy == "baseline" else "remedies")
        assert judge(claim, as_published())["family"] == claim.family


def test_every_verdict_names_its_evidence_and_scale():
    for claim in CLAIMS.values():
        if images_of_the_figure(claim) == 1:
            continue
        decided = claim.id in DECIDED
        verdict = judge(claim, moved(claim, edges(claim)[0][0]) if decided else as_published())
        assert verdict["scale"] and verdict["expected"] and verdict["where"] in (PAPER, ELSEWHERE)
        file, _, place = verdict["evidence"]["metric"].partition(": ")
        assert file.startswith(("reports/results/", "reports/reference/")) and place
    assert {claim.measure for claim in CLAIMS.values()} == set(MEASURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "guess"}, "unknown measure guess; must be one of analysis_dims"),
        ({"requires": "luck"}, "unknown requirement luck"),
        ({"bounds": {"over": 1}}, "unknown bound over"),
        ({"family": "luck"}, "unknown family luck; must be one of low rank, shared basis"),
        ({"elsewhere": ["study", "luck"]}, "unknown requirement luck"),
        ({"requires": []}, "nothing can judge it; give requires, elsewhere or both"),
        ({"family": {"lift": "luck"}}, "unknown family luck"),
        ({"figures": "top2.*"}, "reaches nothing"),
        ({"other": "top1.*.top1"}, "reaches 12 figures, not one"),
    ],
)
def test_a_wrong_register_is_named(change, message):
    with pytest.raises(UserError, match=message):
        expand([{**REGISTER[0], **change}], PAPER_DATA)
