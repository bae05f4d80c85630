import sys

import numpy as np
import pytest

from stages.core.base.errors import UserError
from stages.core.models import folders
from stages.core.models.cost import flops, parameters
from stages.tools import required_width


@pytest.fixture
def results(tmp_path):
    """Floors of a backbone 400 wide whose first 384 fixed directions hold 99 %, and 40 of each image's own."""
    lines = ["backbone,dims,shared,per_image"]
    for d in range(1, 401):
        fixed = 0.04 if d >= 192 else 0.06 if d >= 150 else 0.3
        lines.append(f"cait,{d},{0.01 if d >= 384 else fixed},{0.01 if d >= 40 else 0.5}")
    lines += ["small,1,0.1,0.1", "small,2,0,0"]
    (tmp_path / "floor.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def cells(results, backbone="cait", student=required_width.STUDENT, levels=required_width.LEVELS):
    lines = required_width.required_width(backbone, student, levels, results).splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines[2 : 2 + len(levels)]}, lines


def test_costs_of_384_are_those_published_for_the_papers_students(results):
    table, lines = cells(results)
    assert table["99"] == ["384", "40", "384", "5,983,528", "2.537", "384", "7,313,896", "3.089"]
    assert any("192 wide: 5,717,416 parameters, 2.507 GFLOPs" in line for line in lines)


def test_what_is_wide_enough_needs_no_remedy(results):
    table, lines = cells(results)
    assert [table[level][0] for level in ("80", "90", "95")] == ["150", "150", "192"]
    assert table["95"][2:] == ["–"] * 6
    assert any("relative error of the best linear projector at least 0.04." in line for line in lines)


def test_lift_keeps_the_floor_of_the_narrow_map(results):
    assert any("at most rank 193" in line and "at least 0.04." in line for line in cells(results)[1])


def test_widelast_takes_whole_heads():
    assert required_width.widened(required_width.STUDENT, 193).width == 256
    assert required_width.widened(required_width.STUDENT, 256).width == 256
    assert required_width.lifted(required_width.STUDENT, 193).width == 193


def test_a_narrow_backbone_is_reached_by_any_student(results):
    table, lines = cells(results, "small", levels=(90, 99))
    assert [table[level][0] for level in ("90", "99")] == ["1", "2"]
    assert table == {"90": ["1", "1"], "99": ["2", "2"]}
    assert lines[-1].startswith("No remedy is needed") and not any("–" in line for line in lines)


def test_a_folder_is_a_student_too(results, make_student, tmp_path):
    folders.save(make_student("baseline"), tmp_path / "mine")
    table, _ = cells(results, student=str(tmp_path / "mine"))
    lifted = make_student("lift", lift_width=150)
    assert table["80"][2:5] == ["150", f"{parameters(lifted):,}", f"{flops(lifted, 8) / 1e9:.4g}"]
    assert table["80"][5] == "160"  # heads of 16 channels


def test_unknown_names_end_in_one_clear_line(results):
    with pytest.raises(UserError, match=r"--backbone swin: .*floor.csv has cait, small; add it"):
        required_width.required_width("swin", required_width.STUDENT, required_width.LEVELS, results)
    with pytest.raises(UserError, match="--student nothing: timm cannot create it"):
        required_width.required_width("cait", "nothing", required_width.LEVELS, results)
    with pytest.raises(UserError, match="is a LiftedVisionTransformer"):
        required_width.required_width("cait", "deit_tiny_lift_patch16_224", required_width.LEVELS, results)
    with pytest.raises(UserError, match="missing; run"):
        required_width.required_width("cait", required_width.STUDENT, required_width.LEVELS, results / "nowhere")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "backbone,dims,shared,per_image\ncait,1,x,0\n"])
def test_another_table_is_refused(results, text):
    (results / "floor.csv").write_text(text)
    with pytest.raises(UserError, match="is not a table of floors"):
        required_width.required_width("cait", required_width.STUDENT, required_width.LEVELS, results)


def test_command_prints_the_table(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["required_width", "--backbone", "cait", "--results", str(results)])
    required_width.main()
    assert capsys.readouterr().out.splitlines()[0].startswith("cait: width")


def test_floors_are_read_as_they_stand(results):
    np.testing.assert_array_equal(required_width.read_floors(results / "floor.csv", "small"), [[0.1, 0], [0.1, 0]])
