"""What a study shows, in words: from the default's numbers, as if they were of natural images."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from stages.core.evidence.questions import read_questions
from stages.core.evidence.register import read_register
from stages.core.evidence.results import read_table
from stages.core.evidence.studies import Study
from stages.core.report.markup import Lines
from stages.core.report.tables import findings
from stages.core.report.tables import questions as question_tables


@pytest.fixture
def claims(root):
    return read_register(root / "reports/reference")


@pytest.fixture
def study(committed: Path, tmp_path: Path) -> Study:
    shutil.copytree(committed / "reports/results", tmp_path / "results")
    data = json.loads((committed / "reports/data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps({**data, "dataset": "cats"}))
    return Study("cats_1", tmp_path, {"date": "2026-01-02"})


def gain(study: Study, by: float) -> None:
    """Let Lift gain so much over the plain student on labels alone."""
    runs = read_table(study.results / "runs.csv").set_index("run")
    for seed in (0, 1):
        runs.loc[f"lift-none-{seed}", "top1"] = runs.loc[f"baseline-none-{seed}", "top1"] + by
    runs.reset_index().to_csv(study.results / "runs.csv", index=False)


@pytest.mark.parametrize(("by", "lead"), [(40, "Holds there"), (-40, "Does not hold there"), (1, "Open there")])
def test_a_difference_is_said_with_its_interval_under_its_verdict(study, claims, root, by, lead):
    gain(study, by)
    said = findings.sentences(findings.findings(study, claims))
    (sentence,) = (one for one in said if "lift helps without a teacher" in one)
    asked = findings.asked(study, read_questions(root / "reports/reference")).set_index("question")
    low, high = asked.loc["lift_labels", ["low", "high"]]
    assert sentence.startswith(f"**{lead}**: ")
    assert f"lift helps without a teacher, {by:+.2f} ({low:+.2f} to {high:+.2f})" in sentence


def test_every_claim_is_either_said_or_counted_as_not_to_be_shown(study, claims):
    found = findings.findings(study, claims)
    said = findings.sentences(found)
    assert len(found) == len(findings.table(found)) > 8
    for one in found:
        assert sum(findings.claimed(one)[0] in sentence for sentence in said) >= 1
    cost = sum(claim.requires == ("nothing",) for claim in claims)
    assert findings.limits(study, claims).startswith(
        f"**It cannot show** {len(claims) - len(found) - cost} of {len(claims)} claims: this run uses cats, the claim"
    )


def test_without_a_bound_the_papers_value_is_said(study, claims):
    (sentence,) = (one for one in findings.sentences(findings.findings(study, claims)) if "one basis" in one)
    assert sentence.startswith("**Open there**: ") and "(the paper's cait_s24_224: 4.95, 302 over 61)" in sentence


def test_the_rank_of_images_with_few_tokens_is_not_judged(study, claims):
    assert not any(one["id"] == "worded/low_rank/teacher" for one in findings.findings(study, claims))
    assert "in the per-image basis (an image's 16 tokens allow 16), " in findings.setting(study)
    svd = json.loads((study.results / "svd.json").read_text())
    svd["teacher"] |= {"tokens": 49}
    (study.results / "svd.json").write_text(json.dumps(svd))
    assert any(one["id"] == "worded/low_rank/teacher" for one in findings.findings(study, claims))
    assert "tokens" not in findings.setting(study)


def test_a_study_is_introduced_by_its_data_teacher_and_students(study):
    text = findings.setting(study)
    assert text.startswith("Study `cats_1`: cats; teacher `cait_s24_224`, top-1 ")
    assert "; 12 students, the narrowest 48 wide, 12 epochs, 2 seeds. " in text
    backbones = pd.read_csv(study.results / "backbones.csv", index_col="backbone")
    own, shared = backbones.loc["teacher", ["per_image_95", "shared_95"]]
    assert text.endswith(
        f" For 99 % of the images {own} of 96 directions hold 95 % of the energy in the per-image basis (an image's "
        f"16 tokens allow 16), {shared} in the shared one."
    )


def test_a_study_without_the_teachers_features_says_nothing_of_their_dims(study):
    (study.results / "pca.json").write_text("{}")
    assert findings.setting(study).endswith(" seeds.")


@pytest.fixture
def small(root) -> Study:
    folder = root / "reports/studies/cifar100_small"
    return Study(folder.name, folder, {"date": "2026-11-26"})


def test_nothing_is_said_of_losses_that_were_hardly_applied(small, claims, root):
    register = read_questions(root / "reports/reference")
    found, weak = findings.findings(small, claims), question_tables.weak_teacher(findings.teacher_top1(small), register)
    said = findings.sentences(found, weak)
    assert all(", by a weak teacher**: " in one for one in said)
    (withheld,) = (one for one in said if one.startswith("**Not applied strongly enough to say"))
    for words in ("naive feature distillation gains little", "widen gains by feature distillation"):
        assert words in withheld and not any(words in one for one in said if one != withheld)
    assert "WideLast beats Lift (`mse`)" in withheld
    assert any("WideLast beats Lift, `none` +8.08" in one for one in said)
    assert "6 claims about feature losses; questions on a, b." in findings.sentences(found, "", "a, b", brief=True)[-1]
    (sep,) = (one for one in found if one["id"] == "worded/sep_diagonal/teacher")
    assert sep["verdict"] == "open there" and findings.measured(sep).startswith(
        "0.21 (it could not come out otherwise; "
    )


def test_a_study_says_how_far_its_losses_moved_features_and_how_often_it_was_looked_at(small, root):
    register = read_questions(root / "reports/reference")
    moved = question_tables.moved_sentence(findings.applied(small), register)
    assert "(50 % of the way are asked): `baseline-mse` -4 %, `baseline-projector` 15 %, `lift-mse` -48 %" in moved
    assert "`baseline-gram`" in moved.partition("not recorded: ")[2]
    looked = question_tables.looks("cifar100_small", 4, register)
    assert looked == "Looked at with 2, then 4 seeds, 3 planned: intervals hold less than they say."
    assert question_tables.looks("", 3, register) == "Looked at with 3 seeds, 3 planned."
    asked = findings.asked(small, register)
    judged = int((asked["verdict"] != "not run").sum())
    assert question_tables.registered(asked, "2026-11-26") == f"{judged} questions are younger than these runs."
    assert question_tables.registered(asked, "2027-01-01") == ""


def test_a_sentence_on_a_question_names_no_cause(small, root):
    register = read_questions(root / "reports/reference")
    asked = findings.asked(small, register)
    rows = {row["question"]: row for row in asked.to_dict("records")}
    weak = question_tables.weak_teacher(46.88, register)
    told = {name: question_tables.sentence(row, register, weak) for name, row in rows.items()}
    assert told["size"].startswith(
        "A wide last block gains more than as many parameters spread over all blocks (`widen-"
    )
    assert (
        ", by a weak teacher): top-1 changed by +1.33 (+0.43 to +2.23; paired t alone -2.57 to +5.22): " in told["size"]
    )
    assert "at w = 0.2 mse moved the features of baseline -4 % of the way (every" in told["baseline_mse"]
    assert told["baseline_mse"].endswith("; not applied strongly enough to say (50 % are asked).")
    assert "+0.5" not in told["baseline_mse"]
    assert (
        told["half_mse"].partition("): ")[2].startswith("not checked: at w = 0.2 mse moved the features of half 51 %")
    )
    assert told["target"].endswith("not run: no run of baseline-principal_mse.")
    assert not any("because" in one or "cause" in one for one in told.values())
    passed = rows["half_mse"] | {
        "verdict": "as expected",
        "unread": "baseline, widen",
        "moved": "at w = 2 it moved 80 %",
    }
    said = question_tables.sentence(passed, register)
    assert ": at w = 2 it moved 80 %; top-1 changed by +3.89 (+3.23 to +4.55; " in said
    assert said.endswith(" The head of `baseline` and of `widen` does not read the matched tokens.")


def test_the_two_by_two_table_needs_every_cell(small, root):
    asked = findings.asked(small, read_questions(root / "reports/reference"))
    assert question_tables.two_by_two(asked) == []
    every = asked.assign(verdict="as expected").fillna({"difference": 1.5, "low": 1.0, "high": 2.0})
    every.loc[every["question"] == "pooled_mse", "verdict"] = "not applied strongly enough to say"
    narrow, wide, difference = question_tables.two_by_two(every)
    assert [row["last block"] for row in (narrow, wide, difference)] == ["narrow", "wide", "difference"]
    assert narrow["head reads: matched tokens"] == Lines("+1.50 (+1.00 to +2.00)", "not applied strongly enough to say")
    assert wide["head reads: matched tokens"] == "+1.50 (+1.00 to +2.00)"
    assert difference["head reads: difference"] is None and difference["head reads: class token"]
