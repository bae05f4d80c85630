"""At which scale a claim is judged: by the sample's names, the weights' source, and what a study is of."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
from reproduction import (
    CLAIMS,
    CONFIRMED,
    CONSISTENT,
    CONTRADICTED,
    FAILS_THERE,
    HOLDS_THERE,
    INCONSISTENT,
    OPEN,
    OPEN_THERE,
    PAPER_DATA,
    REGISTER,
    WORDNET,
    as_published,
    edges,
    moved,
)

from stages.core.analysis import spectra
from stages.core.analysis.dims import shares
from stages.core.base.errors import UserError
from stages.core.base.files import names_digest
from stages.core.evidence.register import expand
from stages.core.evidence.requirements import images_of_the_figure
from stages.core.evidence.results import Results, read_results
from stages.core.evidence.scales import (
    ELSEWHERE,
    NOT_MEASURED,
    PAPER,
    SAMPLE,
    WEIGHTS,
    WORDS,
    counts,
    requirements,
    sentence,
)
from stages.core.evidence.verdicts import judge, judge_all
from stages.core.report.tables import audit as tables_audit


def test_training_images_say_nothing_about_the_sample():
    results = as_published()
    del results.data["train"]
    results.data["val"]["images"] = 1000  # the sample alone
    of_sample = [claim for claim in CLAIMS.values() if "sample" in claim.requires and images_of_the_figure(claim) > 1]
    assert len(of_sample) == 14 * 13 - 5 + 4 + 5
    for claim in of_sample:
        assert judge(claim, results)["where"] == PAPER


def test_a_sample_of_another_size_measures_no_published_dims():
    results = as_published()
    for analysis in results.analyses.values():
        for of in analysis.values():
            of["images"] = 5000
    for claim in (claim for claim in CLAIMS.values() if "sample" in claim.requires):
        verdict = judge(claim, results)
        assert verdict["where"] in (None, ELSEWHERE)
        if not claim.id.startswith("worded") and images_of_the_figure(claim) > 1:
            assert verdict["reason"].endswith("was analysed on 5,000 images, the paper's sample is 1,000")


# The thirteen claims about one backbone, and results of another sample of ImageNet's classes: as published, with
# intervals as wide as those that were measured of ViT-Tiny.
OF_TINY = [claim for claim in CLAIMS.values() if claim.path[:1] == ("ViT-Tiny",)]


def another_sample() -> Results:
    results = as_published()
    results.data["val"] = {"images": 1000, "first_of_class_sha256": names_digest(["n01440764_tench.JPEG"])}
    del results.data["train"]
    for analysis, of in results.analyses.items():
        dims = {"sep": "dims"}.get(analysis, "dims_p99")
        for one in of.values():
            low, high = (
                {level: max(1, value + side * (2 + value // 20)) for level, value in one[dims].items()}
                for side in (-1, 1)
            )
            one["another_sample"] = {"low": low, "high": high}
    return results


def test_another_sample_is_consistent_within_its_interval_and_inconsistent_beyond():
    results = another_sample()
    assert len(OF_TINY) == 13
    for claim in OF_TINY:
        verdict = judge(claim, results)
        assert (verdict["where"], verdict["verdict"]) == (SAMPLE, CONSISTENT)
        low, high = verdict["interval"]
        assert low <= claim.figure <= high and f"another sample gives {low} to {high}" in verdict["reason"]
    altered = copy.deepcopy(PAPER_DATA)
    altered["svd_and_pca_dims"]["ViT-Tiny"]["per_image"][99] = 56
    verdicts = {claim.id: judge(claim, results) for claim in expand(REGISTER, altered)}
    verdict = verdicts["svd/ViT-Tiny/per_image/99"]
    assert (verdict["verdict"], verdict["measured"], verdict["interval"]) == (CONSISTENT, 52, [48, 56])
    altered["svd_and_pca_dims"]["ViT-Tiny"]["per_image"][99] = 57
    verdicts = {claim.id: judge(claim, results)["verdict"] for claim in expand(REGISTER, altered)}
    assert [verdicts[claim.id] for claim in OF_TINY].count(CONSISTENT) == 12
    assert verdicts["svd/ViT-Tiny/per_image/99"] == INCONSISTENT


def test_published_figures_stand_beside_those_of_another_sample():
    def claim(name, published, measured, interval, where=SAMPLE):
        verdict = CONSISTENT if where == SAMPLE and interval[0] <= published <= interval[1] else INCONSISTENT
        keys = {"id": name, "where": where, "published": published, "measured": measured, "interval": interval}
        return {**keys, "verdict": verdict}

    audit = {
        "claims": [
            claim("svd/ViT-Tiny/per_image/80", 1, 1, [1, 1]),
            claim("svd/ViT-Tiny/per_image/95", 7, 9, [8, 10]),
            claim("sep/ViT-Tiny/50", 97, 97, [97, 97]),
            claim("svd/CaiT-S24/svd/80", 30, 30, [29, 31], where=PAPER),
        ]
    }
    first, second = tables_audit.of_another_sample(audit)
    assert list(first.values()) == ["ViT-Tiny, per-image basis: 80, 95 %", "1, 7", "1, 9", "1–1, 8–10"]
    assert list(second.values()) == ["ViT-Tiny, SEP: 50 %", "97", "97", "97–97"]


def test_a_sample_is_of_the_same_kind_by_its_classes_and_needs_an_interval():
    claim, results = OF_TINY[0], another_sample()
    of = results.analyses["svd"][claim.backbone["timm"]]
    indices = dataclasses.replace(results, data=results.data | {"class_names": [f"{one:03d}" for one in range(1000)]})
    assert judge(claim, indices)["verdict"] == CONSISTENT
    others = dataclasses.replace(results, data=results.data | {"class_names": [*WORDNET[1:], "n00000000"]})
    assert "not named by ImageNet's WordNet ids" in judge(claim, others)["reason"]
    results.data["val"].pop("first_of_class_sha256")  # of a version that did not record it
    assert judge(claim, results)["verdict"] == CONSISTENT
    del of["another_sample"]
    verdict = judge(claim, results)
    assert verdict["verdict"] == NOT_MEASURED and verdict["reason"].endswith("is not recorded; analyse it again")


def test_the_papers_names_are_those_of_imagenet():
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50_001)]
    assert PAPER_DATA["data"]["val_names_sha256"] == names_digest(names)
    indices = [f"{index:03d}" for index in range(1000)]
    assert PAPER_DATA["data"]["class_names_sha256"] == [names_digest(sorted(of)) for of in (WORDNET, indices)]
    results = as_published()
    results.data["val"]["first_of_class_sha256"] = names_digest(names[:1000])
    assert judge(OF_TINY[0], results)["where"] is None


@pytest.mark.parametrize(
    ("source", "counts_here"),
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k@0123abc", True),
        ("WEIGHTS/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors", True),
        ("https://example.org/vit.npz", True),
        ("timm/vit_tiny_patch16_224.augreg_in21k@0123abc", False),
        ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k@0123abc", False),
        (None, False),
    ],
)
def test_weights_count_with_their_source(source, counts_here):
    claim = CLAIMS["svd/ViT-Tiny/per_image/95"]
    for results, where in ((as_published(), PAPER), (another_sample(), SAMPLE)):
        of = results.analyses["svd"][claim.backbone["timm"]]
        of |= {"source": source, "sha256": "0123456789abcdef"}
        verdict = judge(claim, results)
        assert verdict["where"] == (where if counts_here else None)
        if counts_here:
            assert verdict["reason"].endswith(f"; weights {source} (SHA-256 0123456789ab…)")
        else:
            assert "its weights" in verdict["reason"]


def test_a_value_of_one_image_is_compared_with_those_of_single_images():
    claim = CLAIMS["sep/ViT-Base (MAE)/50"]
    results = as_published()
    of = results.analyses["sep"][claim.backbone["timm"]]
    of["dims"]["50"] = 384
    assert "which one is not said" not in judge(CLAIMS["sep/ViT-Large (MAE)/50"], results)["reason"]
    assert (
        judge(claim, results)["reason"] == "where another sample's value would fall is not recorded; analyse it again"
    )
    of["one_image"] = {"low": {"50": 377}, "high": {"50": 388}}
    of["another_sample"] = {"low": {"50": 384}, "high": {"50": 384}}
    verdict = judge(claim, results)
    assert (verdict["where"], verdict["verdict"], verdict["interval"]) == (SAMPLE, CONSISTENT, [377, 388])


def test_the_shared_basis_is_shown_beside_the_papers_and_decides_nothing():
    claim, results = CLAIMS["worded/shared_basis/teacher"], as_published()
    verdict = judge(claim, results)
    assert (verdict["where"], verdict["verdict"], verdict["expected"]) == (PAPER, OPEN, "no bound")
    assert verdict["measured"] == 302 / 61 and verdict["reason"].endswith("cait_s24_224: 4.95, 302 over 61")
    results.analyses["pca"]["teacher"]["dims_p99"]["95"] = 61
    assert judge(claim, results)["verdict"] == OPEN
    results.data["dataset"] = "cifar100"
    assert judge(claim, results)["verdict"] == OPEN_THERE


def test_white_noise_lies_on_the_diagonal_and_a_common_offset_does_not(rng):
    """The bound is in deviations of single tokens of white noise; it fails tokens whose channels have a mean."""
    claim, channels = CLAIMS["worded/sep_diagonal/teacher"], 96
    noise = rng.normal(size=(2000, 1, channels))
    curves = shares(spectra.unfold(spectra.mean_spectra(noise).folded, channels))
    assert curves.std(axis=0).max() == pytest.approx(0.25 / math.sqrt(channels // 2 + 2), rel=0.05)

    def verdict(tokens):
        results = as_published()
        mean = spectra.mean_spectra(tokens).mean()
        found = spectra.pattern(
            spectra.unfold(mean, channels), spectra.unfold(mean[None], channels), [50, 60, 70, 80, 90]
        )
        results.analyses["sep"]["teacher"] |= {"channels": channels, **found.metrics}
        return judge(claim, results)

    assert verdict(noise)["verdict"] == CONFIRMED
    assert verdict(noise)["measured"] < 0.5
    assert verdict(noise + 0.6)["verdict"] == CONTRADICTED  # a quarter of the energy at frequency 0
    slow = np.cos(2 * np.pi * (np.arange(channels) / channels + rng.uniform(size=(2000, 1, 1))))
    assert verdict(noise + slow)["verdict"] == CONTRADICTED


def test_low_rank_is_not_judged_where_few_tokens_bound_it():
    claim = CLAIMS["worded/low_rank/teacher"]
    results = relabelled(as_published(), "cifar100")
    assert judge(claim, results)["verdict"] == HOLDS_THERE
    of = results.analyses["svd"]["teacher"]
    of["tokens"] = min(run["width"] for run in results.runs)
    verdict = judge(claim, results)
    assert verdict["verdict"] == NOT_MEASURED and "tokens, no more than the narrowest student" in verdict["reason"]
    results.runs.clear()  # features alone were analysed
    assert "an image has 192 tokens, no more than a student half as wide has (192)" in judge(claim, results)["reason"]
    of["tokens"] = 193
    assert judge(claim, results)["verdict"] == HOLDS_THERE


def test_words_are_judged_at_other_scales_apart_and_never_on_digits():
    worded = [claim for name, claim in CLAIMS.items() if name.startswith("worded/") and claim.bounds]
    assert len(worded) == 18
    for claim in worded:
        for value, word in zip(edges(claim)[0], (HOLDS_THERE, FAILS_THERE), strict=True):
            of = {label: judge(claim, relabelled(moved(claim, value), label)) for label in ("cifar100", "digits")}
            assert of["digits"]["verdict"] == NOT_MEASURED
            assert of["cifar100"]["verdict"] == (word if claim.elsewhere else NOT_MEASURED)


@pytest.mark.parametrize(("moved_by", "reason"), [(49.0, "not applied strongly enough to say"), (None, "not checked")])
def test_a_loss_that_was_hardly_applied_decides_nothing_at_another_scale(moved_by, reason):
    for name in ("worded/naive_distillation/mse", "worded/gains/widen", "worded/widen_beats_lift/mse"):
        claim = CLAIMS[name]
        results = moved(claim, edges(claim)[0][0])
        for run in results.runs:
            run["own_equal_moved"] = moved_by
        assert judge(claim, results)["verdict"] == CONFIRMED  # the paper's own setting is as it is
        verdict = judge(claim, relabelled(results, "cifar100"))
        assert verdict["verdict"] == OPEN_THERE and verdict["reason"].startswith(f"{reason}: at w = 0.2 mse moved")
    labels = CLAIMS["worded/helps_without_teacher/widen"]
    assert judge(labels, relabelled(moved(labels, edges(labels)[0][0]), "cifar100"))["verdict"] == HOLDS_THERE


def relabelled(results: Results, label: str) -> Results:
    results.data["dataset"] = label
    return results


def test_words_are_judged_by_the_value_on_another_sample():
    claim = CLAIMS["worded/low_rank/fourteen"]
    for value, word in zip(edges(claim)[0], (CONSISTENT, INCONSISTENT), strict=True):
        results = dataclasses.replace(another_sample(), analyses=moved(claim, value).analyses)
        assert (judge(claim, results)["where"], judge(claim, results)["verdict"]) == (SAMPLE, word)


def test_the_nearest_to_the_paper_decides_and_there_whoever_contradicts():
    claim = CLAIMS["worded/gains/lift"]
    inside, outside = edges(claim)[0]
    elsewhere = {name: relabelled(moved(claim, value), name) for name, value in (("a", inside), ("b", outside))}
    found = judge_all(claim, elsewhere)
    assert (found["run"], found["verdict"]) == ("b", FAILS_THERE)
    assert [(one["run"], one["where"], one["verdict"]) for one in found["others"]] == [("a", ELSEWHERE, HOLDS_THERE)]
    found = judge_all(claim, elsewhere | {"paper": moved(claim, inside)})
    assert (found["run"], found["where"], found["verdict"]) == ("paper", PAPER, CONFIRMED)
    assert [one["verdict"] for one in found["others"]] == [HOLDS_THERE, FAILS_THERE]
    found = judge_all(claim, elsewhere | {"paper": moved(claim, inside), "again": moved(claim, outside)})
    assert (found["run"], found["verdict"]) == ("again", CONTRADICTED)


def test_what_shows_nothing_is_kept_beside_what_decides():
    claim = CLAIMS["worded/gains/lift"]
    unclear, clear = moved(claim, 1.0, (-1.0, 3.0)), moved(claim, 1.0)
    alone = judge_all(claim, {"current": unclear})
    assert (alone["verdict"], alone["run"], alone["measured"], alone["others"]) == (OPEN, "current", 1.0, [])
    both = judge_all(claim, {"current": unclear, "good": clear})
    assert (both["verdict"], both["run"]) == (CONFIRMED, "good")
    assert [(one["run"], one["verdict"]) for one in both["others"]] == [("current", OPEN)]
    assert [row["run"] for row in tables_audit.register([both])] == ["good", "current"]


def test_an_accuracy_of_other_training_is_open_to_words_alone():
    claim = CLAIMS["worded/helps_without_teacher/widen"]
    results = moved(claim, 1.0)
    assert judge(claim, results)["verdict"] == CONFIRMED
    for run in results.runs:
        run["epochs"] = 30
    assert (judge(claim, results)["where"], judge(claim, results)["verdict"]) == (ELSEWHERE, HOLDS_THERE)


@pytest.mark.parametrize(("top1", "word"), [(77.50, 0), (77.58, 0), (77.47, 1), (76.0, 1)])
def test_the_authors_weights_are_told_apart(top1, word):
    claim = CLAIMS["headline_top1/top1/lift"]
    empty = Results({"dataset": "digits"}, {name: {} for name in ("svd", "pca", "sep")}, [], {}, {})
    record = {"top1": top1, "images": 50_000, "precision": "float32", "source": "lift.pth", "sha256": "0123" * 16}
    verdict = judge_all(claim, {"current": empty}, {"lift": record})
    assert (verdict["where"], verdict["verdict"]) == (WEIGHTS, WORDS[WEIGHTS][word])
    assert (verdict["run"], verdict["measured"], verdict["expected"]) == (WEIGHTS, top1, "77.53 ± 0.05")
    assert verdict["evidence"]["metric"] == "reports/reference/released.json: lift.top1"
    assert verdict["reason"].endswith("without training; weights lift.pth (SHA-256 012301230123…)")
    others = ("headline_top1/top1/widen", "top1/lift/softkd_spectral", "lift_width/384")
    for name in others:
        assert judge_all(CLAIMS[name], {"current": empty}, {"lift": record})["where"] is None
    trained = judge_all(claim, {"current": as_published()}, {"lift": record})
    assert (trained["where"], [one["where"] for one in trained["others"]]) == (PAPER, [WEIGHTS])


def test_counts_are_kept_scale_by_scale():
    verdicts = [judge(claim, as_published()) for claim in CLAIMS.values()]
    found = counts(verdicts)
    assert sum(sum(of.values()) for where, of in found.items() if where in WORDS) + found[NOT_MEASURED] == len(CLAIMS)
    assert found[PAPER][OPEN] == 1 and found[ELSEWHERE] == dict.fromkeys(WORDS[ELSEWHERE], 0)
    assert sentence(counts([])) == "0 not measured"
    assert sentence(counts([{"where": ELSEWHERE, "verdict": OPEN_THERE}])) == "at another scale 1 open there"


def test_every_claim_is_judged_where_its_requirements_say():
    for claim in CLAIMS.values():
        found = requirements(claim)
        assert list(found) == [where for where in WORDS if where in found] != []  # the nearest first
        assert (SAMPLE in found) == ("sample" in claim.requires)
        assert PAPER in found


def test_a_reproduction_of_analyses_alone_is_judged(tmp_path):
    results = another_sample()
    for name, of in results.analyses.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    (tmp_path / "data.json").write_text(json.dumps(results.data))
    found = read_results(tmp_path, tmp_path / "data.json")
    verdicts = {claim.id: judge(claim, found) for claim in CLAIMS.values()}
    assert {verdicts[claim.id]["verdict"] for claim in OF_TINY} == {CONSISTENT}
    trained = [verdicts[claim.id] for claim in CLAIMS.values() if "training" in (*claim.requires, *claim.elsewhere)]
    assert {verdict["verdict"] for verdict in trained} == {NOT_MEASURED}
    assert verdicts["cost_flops/lift/flops"]["reason"] == "the students' parameters and operations were not counted"
    (tmp_path / "svd.json").unlink()
    with pytest.raises(UserError, match=r"runs\.csv and .*svd\.json are missing; run `dvc repro summarize`"):
        read_results(tmp_path, tmp_path / "data.json")
