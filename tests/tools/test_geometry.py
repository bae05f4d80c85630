import sys

import pytest

from stages.core.base.errors import UserError
from stages.core.base.files import write_json
from stages.paths import ARTIFACTS
from stages.tools import geometry
from stages.tools.compose import composed

PAPER = {"per_image_dims": 61, "shared_dims": 302, "teacher_width": 384, "student_width": 192, "plain": 5717416}


def test_the_papers_own_geometry_holds():
    found = geometry.conditions(**PAPER, widened=7313896)
    assert all(one.holds for one in found)
    assert [one.value for one in found] == pytest.approx([one.paper for one in found])


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"per_image_dims": 192}, ["student's width (per-image dims 192, shared 302)"]),
        ({"shared_dims": 192}, ["student's width (per-image dims 61, shared 192)", "student's width / shared dims"]),
        ({"teacher_width": 383}, ["teacher's width / student's"]),
        ({"teacher_width": 769}, ["teacher's width / student's"]),
        ({"shared_dims": 641}, ["student's width / shared dims"]),
        ({"widened": 3 * 5717416 + 1}, ["parameters of WideLast / of the plain student"]),
    ],
)
def test_each_condition_can_fail(change, failing):
    found = geometry.conditions(**{**PAPER, "widened": 7313896, **change})
    assert [one.quantity for one in found if not one.holds] == failing


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """The trial's parameters, and the dims of a pilot's teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["geometry"])
    (tmp_path / "params.yaml").write_text(composed("profile=cifar100_trial"))
    for folder, dims in ((ARTIFACTS / "svd", 29), (ARTIFACTS / "pca", 159)):
        (folder / "teacher").mkdir(parents=True)
        write_json(folder / "teacher/metrics.json", {"channels": 192, "dims_p99": {"95": dims}})
    return tmp_path


def test_the_trials_students_lie_as_the_papers_do(trial, capsys):
    geometry.main()
    out = capsys.readouterr().out
    assert "| student's width (per-image dims 29, shared 159) | 64 | 30 | 158 | 192 | yes |" in out
    assert out.endswith("all hold\n")
    (trial / "params.yaml").write_text(composed("profile=cifar100_trial", "student.base.embed_dim=48"))
    geometry.main()
    assert capsys.readouterr().out.endswith("does not hold: parameters of WideLast / of the plain student\n")


def test_a_level_that_was_not_analysed_is_one_line(trial):
    write_json(ARTIFACTS / "pca/teacher/metrics.json", {"channels": 192, "dims_p99": {"90": 1}})
    with pytest.raises(UserError, match="no dims at 95 %; put 95 into the thresholds"):
        geometry.main()
    (ARTIFACTS / "pca/teacher/metrics.json").unlink()
    with pytest.raises(UserError, match=r"teacher/metrics\.json"):
        geometry.main()
