"""Students that params no longer name are taken away, and none is lost."""

import hashlib
import sys

import pytest

from stages import pruning
from stages.paths import ASIDE, TRAIN

NAMES = ("lift-mse-0", "lift-none-0", "widen-mse-0")


@pytest.fixture
def students(tmp_path, monkeypatch):
    """Three students' folders in an empty project."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (TRAIN / name / "ema").mkdir(parents=True)
        for file in ("model.safetensors", "ü [1].csv", "ema/model.safetensors"):
            (TRAIN / name / file).write_text(f"{name} {file}", encoding="utf-8")
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_dvc_holds_is_deleted_and_the_rest_set_aside(students, capsys):
    repo = pytest.importorskip("dvc.repo")
    with repo.Repo.init(no_scm=True) as repository:
        repository.add([str(TRAIN / name) for name in NAMES])
        (TRAIN / "lift-none-0/model.safetensors").unlink()
        (TRAIN / "lift-none-0/model.safetensors").write_text("trained again, without DVC")
        changed = contents(TRAIN / "lift-none-0")
        for file in TRAIN.glob("*.*"):  # of `dvc add`
            file.unlink()
        capsys.readouterr()
        pruning.prune_students(["widen-mse-0"])
        assert [path.name for path in TRAIN.iterdir()] == ["widen-mse-0"]
        (aside,) = ASIDE.iterdir()
        assert contents(aside) == changed
        assert capsys.readouterr().err == (
            f"artifacts/train/lift-none-0 is not in params.yaml, nor in DVC's cache: moved to {aside}\n"
        )
        missing = hashlib.md5(b"widen-mse-0 model.safetensors", usedforsecurity=False).hexdigest()
        (students / ".dvc/cache/files/md5" / missing[:2] / missing[2:]).unlink()
        pruning.prune_students([])
        assert {path.name.rpartition("-")[0] for path in ASIDE.iterdir()} == {"lift-none-0", "widen-mse-0"}


@pytest.mark.parametrize("installed", [True, False])
def test_without_dvc_nothing_is_deleted(students, installed, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "dvc.repo", None)
    before = {name: contents(TRAIN / name) for name in NAMES}
    pruning.prune_students(["lift-mse-0"])
    pruning.prune_students(["lift-mse-0"])
    found = {path.name.rpartition("-")[0]: contents(path) for path in ASIDE.iterdir()}
    assert found == {name: before[name] for name in NAMES[1:]}
    assert [path.name for path in TRAIN.iterdir()] == ["lift-mse-0"]


def test_a_student_is_set_aside_once(students):
    for _ in range(2):
        pruning.prune_students(NAMES[1:])
        (TRAIN / NAMES[0] / "ema").mkdir(parents=True)
        for file in ("model.safetensors", "ü [1].csv", "ema/model.safetensors"):
            (TRAIN / NAMES[0] / file).write_text(f"{NAMES[0]} {file}", encoding="utf-8")
    assert len(list(ASIDE.iterdir())) == 1
