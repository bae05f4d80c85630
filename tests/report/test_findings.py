"""What a study shows, in words: from the default's numbers, as if they were of natural images."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from stages.core.evidence.claims import CONTROLS
from stages.core.evidence.register import read_register
from stages.core.evidence.studies import Study
from stages.core.report.tables import findings


@pytest.fixture
def claims(root):
    return read_register(root / "reports/reference")


@pytest.fixture
def study(committed: Path, tmp_path: Path) -> Study:
    shutil.copytree(committed / "reports/results", tmp_path / "results")
    data = json.loads((committed / "reports/data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps({**data, "dataset": "cats"}))
    return Study("cats_1", tmp_path, {"date": "2026-01-02"})


def change(study: Study, table: str, pattern: str, replacement: str) -> None:
    """Replace what a pattern finds in one of the study's tables."""
    path = study.results / table
    changed, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    assert count
    path.write_text(changed)


def gain(study: Study, low: float, high: float) -> None:
    """Let Lift's gain over the plain student have this interval."""
    change(
        study, "differences.csv", r"^lift,none,baseline,none,.*?,.*?,.*?,", f"lift,none,baseline,none,1.5,{low},{high},"
    )


@pytest.mark.parametrize(
    ("low", "high", "lead"),
    [(0.5, 2.5, "Holds there"), (-2.5, -0.5, "Does not hold there"), (-0.5, 2.5, "Open there")],
)
def test_a_difference_is_said_with_its_interval_under_its_verdict(study, claims, low, high, lead):
    gain(study, low, high)
    said = findings.sentences(findings.findings(study, claims))
    (sentence,) = (one for one in said if "lift helps without a teacher" in one)
    assert sentence.startswith(f"**{lead}** (")
    assert f"lift helps without a teacher, +1.50 ({low:+.2f} to {high:+.2f})" in sentence


def test_every_claim_is_either_said_or_counted_as_not_to_be_shown(study, claims):
    found = findings.findings(study, claims)
    said = findings.sentences(found)
    assert (
        sum(int(re.match(r"\*\*.*?\*\* \((\d+)\): ", one)[1]) for one in said)
        == len(found)
        == len(findings.table(found))
    )
    cost = sum(claim.requires == ("nothing",) for claim in claims)
    published = sum(claim.family != CONTROLS for claim in claims)
    shown = sum(one["family"] != CONTROLS for one in found)
    assert findings.limits(study, claims).startswith(
        f"**It cannot show** {published - shown - cost} of {published} claims: this run uses cats, the claim"
    )


def test_controls_are_said_apart(study, claims):
    change(
        study,
        "differences.csv",
        r"^lift,none,baseline,none,",
        "widen,none,uniform,none,",
    )
    said = findings.sentences(findings.findings(study, claims))
    (sentence,) = (one for one in said if "WideLast gains by where it is wide" in one)
    assert sentence.startswith("**Asked here, not by the paper: ")
    assert not any("WideLast gains by where" in one for one in said if one != sentence)


def test_without_a_bound_the_papers_value_is_said(study, claims):
    (sentence,) = (one for one in findings.sentences(findings.findings(study, claims)) if "one basis" in one)
    assert sentence.startswith("**Open there** (") and "(the paper's cait_s24_224: 4.95, 302 over 61)" in sentence


def test_the_rank_of_images_with_few_tokens_is_not_judged(study, claims):
    assert not any(one["id"] == "worded/low_rank/teacher" for one in findings.findings(study, claims))
    assert "in the image's own basis (its 16 tokens allow 16), " in findings.setting(study)
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
    own, shared = backbones.loc["teacher", ["svd_95", "dataset_95"]]
    assert text.endswith(
        f" For 99 % of the images {own} of 96 directions hold 95 % of the energy in the image's own basis (its 16 "
        f"tokens allow 16), {shared} in one that all share."
    )


def test_a_study_without_the_teachers_features_says_nothing_of_their_dims(study):
    (study.results / "pca.json").write_text("{}")
    assert findings.setting(study).endswith(" seeds.")
