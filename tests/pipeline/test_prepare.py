"""`prepare` and what reads its index, in a folder of their own."""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import extract, prepare, teach, watch
from stages.core.base.errors import UserError
from stages.tools.compose import composed

SMALL = (
    "dataset=folder",
    "dataset.classes=3",
    "dataset.image_size=8",
    "analysis.images_per_class=1",
    "teacher.recipe.epochs=2",
    "teacher.recipe.global_batch=4",
)


@pytest.fixture
def project(tmp_path, tree, monkeypatch):
    """A function that prepares the tree, or an archive of it, in an empty project."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("DATA_ROOT", str(tree))
    monkeypatch.setenv("WORKERS", "1")
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def run(*overrides):
        (tmp_path / "project/params.yaml").write_text(composed(*SMALL, *overrides))
        prepare.main()
        return tmp_path / "project"

    return run


def written(project):
    files = [project / "reports/data.json", *(project / "artifacts/prepare").iterdir()]
    return {path.name: path.read_text() for path in files}


def test_folders_and_archives_are_prepared_alike(project, tree, tmp_path, monkeypatch):
    folders = written(project())
    assert folders.keys() == {"data.json", "train.txt", "val.txt", "sample.txt"}
    assert folders["sample.txt"].split() == ["ant/000.png", "bee/000.png", "cat/000.png"]
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.add(tree / split, ".")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert written(project("dataset.reader=tar")) == folders


VALIDATION_ALONE = ("grid=none", "teacher.weights=random", "dataset.train_split=null")


def test_without_training_the_validation_images_suffice(project, tree, tmp_path, monkeypatch):
    """As class folders and as a tar, whichever is there; what a run with training listed before is removed."""
    whole = written(project())
    shutil.rmtree(tree / "train")
    folders = written(project(*VALIDATION_ALONE, "dataset.reader=local"))
    assert folders.keys() == {"data.json", "val.txt", "sample.txt"}
    manifest, before = json.loads(folders["data.json"]), json.loads(whole["data.json"])
    assert manifest == {key: value for key, value in before.items() if key not in ("train", "train_split")}
    watch.main()
    assert set(json.loads(Path("reports/source.json").read_text())) == {"dataset", "val"}
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(tree / "val", ".")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert written(project(*VALIDATION_ALONE, "dataset.reader=local")) == folders


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: shutil.rmtree(tree / "val"), r"/val is not a folder \(its parent holds train\)"),
        (lambda tree: [image.unlink() for image in (tree / "val/bee").iterdir()], r"/val/bee holds no image"),
        (lambda tree: shutil.rmtree(tree / "val/bee"), r"the dataset has 2 classes, dataset\.classes says 3"),
        (lambda tree: (tree / "val/bee/000.png").write_bytes(b""), r"/val/bee/000\.png is empty"),
        (lambda tree: (tree / "val/bee/001.png").unlink(), r"class bee has 1 validation images, fewer than analysis\."),
    ],
)
def test_validation_images_that_cannot_be_analysed_end_in_one_line(change, said, project, tree):
    change(tree)
    with pytest.raises(UserError, match=said):
        project(*VALIDATION_ALONE, "dataset.reader=local", "analysis.images_per_class=2")
    assert not Path("reports/data.json").exists()


def test_preparing_again_writes_nothing(project):
    files = [path for path in project().rglob("*") if path.is_file() and path.name != "params.yaml"]
    before = {path: path.stat().st_mtime_ns for path in files}
    project()
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_watching_notices_what_prepare_must_look_at(project, tree):
    folder = project()
    seen = []
    for change in (lambda: None, lambda: None, (tree / "train/ant/003.png").unlink, (tree / "val/ant/000.png").touch):
        change()
        watch.main()
        seen.append((folder / "reports/source.json").read_text())
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_without_its_images_a_watched_dataset_stays(project, monkeypatch, capsys):
    folder = project()
    watch.main()
    before = (folder / "reports/source.json").read_text()
    monkeypatch.delenv("DATA_ROOT")
    watch.main()
    assert (folder / "reports/source.json").read_text() == before
    assert "stays as recorded: DATA_ROOT is not set" in capsys.readouterr().err
    with pytest.raises(UserError, match="DATA_ROOT is not set"):
        project("dataset.label=another")
    with pytest.raises(UserError, match="DATA_ROOT is not set"):
        watch.main()
    monkeypatch.setenv("DATA_ROOT", "nowhere")
    with pytest.raises(UserError, match="DATA_ROOT=nowhere is not a folder"):
        watch.main()


def test_a_relative_folder_is_taken_from_the_project(project, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "../data")
    expected = written(project())
    (tmp_path / "project/.dvc/tmp/exps/x").mkdir(parents=True)  # as DVC runs a stage of `dvc exp run --temp`
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    shutil.copy(tmp_path / "project/params.yaml", tmp_path / "project/.dvc/tmp/exps/x")
    monkeypatch.chdir(tmp_path / "project/.dvc/tmp/exps/x")
    prepare.main()
    assert written(tmp_path / "project/.dvc/tmp/exps/x") == expected


def test_what_is_left_out_is_said_and_recorded_and_nothing_else_changes(project, tree, capsys):
    clean = json.loads((project() / "reports/data.json").read_text())
    assert "left out" not in capsys.readouterr().out
    for name in ("train/ant/1.heic", "train/ant/2.HEIC", "val/bee/notes.txt", "val/.DS_Store"):
        (tree / name).write_bytes(b"")
    Image.open(tree / "train/ant/000.png").save(tree / "train/ant/900.gif")
    manifest = json.loads((project() / "reports/data.json").read_text())
    assert manifest["train"].pop("left_out") == {".heic": 2}
    assert (manifest["val"].pop("left_out"), manifest["val"].pop("passed_over")) == ({".txt": 1}, 1)
    assert manifest["val"] == clean["val"] and manifest.keys() == clean.keys()
    assert manifest["train"].keys() == clean["train"].keys() and manifest["train"]["images"] == 13
    line = capsys.readouterr().out.splitlines()[-1]
    assert "13 training and 6 validation images, 3 to analyse; left out: 2 .heic, 1 .txt, 1 leftover ->" in line


def sixteen_bits(tree, scale, names=("**/*.png",)):
    """Some of the tree's images in 16 bits, their values times `scale`."""
    for pattern in names:
        for path in tree.glob(pattern):
            Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * scale).save(path)


def test_twelve_bits_in_files_of_sixteen_are_refused_before_training(project, tree, capsys):
    sixteen_bits(tree, 16)
    with pytest.raises(UserError, match=r"train/ant/000\.png: none of the 12 images of 16 bits .* scale them"):
        project()
    sixteen_bits(tree, 16, ["*/ant/*.png", "*/bee/*.png"])
    project()
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert "6 use less than a sixteenth of the range" in warning and "train/cat/000.png, " in warning


def test_pixels_of_no_known_range_are_refused_before_training(project, tree):
    Image.new("F", (8, 8), 0.5).save(tree / "val/ant/000.png", "TIFF")
    for policy in ("stop", "skip"):
        with pytest.raises(UserError, match=r"val/ant/000\.png cannot be read .*pixels of no known range"):
            project(f"dataset.unreadable={policy}")


def test_a_missing_extra_is_named(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'encoding-mismatch\[hf\]'"):
        project("dataset.reader=hfds/zoo/three")


def test_skipped_images_are_counted_and_named_once(project, tree, capsys):
    (tree / "train/ant/001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"train/ant/001\.png is empty, and cannot be read as an image"):
        project()
    damaged = tree / "train/cat/003.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    folder = project("dataset.unreadable=skip")
    teach.main()
    metrics = json.loads((folder / "artifacts/teach/metrics.json").read_text())
    assert metrics["unreadable_images"] == 2
    assert capsys.readouterr().err.count("2 training images cannot be decoded, replaced: ant/001.png, cat/003.png") == 1


@pytest.mark.parametrize("broken", ["val/bee/001.png", "val/ant/000.png"])
def test_an_unreadable_validation_image_stops_whatever_the_policy(project, tree, broken):
    whole = (tree / broken).read_bytes()
    (tree / broken).write_bytes(whole[:-30])
    project("dataset.unreadable=skip")
    with pytest.raises(UserError, match=f"{broken} cannot be read as an image"):
        teach.main()
    (tree / broken).write_bytes(b"no image")  # its header tells
    with pytest.raises(UserError, match=f"{broken} cannot be read as an image"):
        project("dataset.unreadable=skip")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_empty_validation_image_stops_whatever_the_policy(project, tree, policy):
    (tree / "val/bee/001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"val/bee/001\.png is empty, and cannot be read as an image"):
        project(f"dataset.unreadable={policy}")


def test_a_copy_is_refused_and_equal_sizes_are_not(project, tree):
    for split in ("train", "val"):
        for path in (tree / split).rglob("*.png"):
            path.unlink()
        for name in ("ant", "bee", "cat"):
            Image.new("L", (8, 8), len(split)).save(tree / split / name / "000.png", compress_level=0)
    project()
    shutil.copy(tree / "train/ant/000.png", tree / "val/ant/000.png")
    project()  # one image alone is the same
    for name in ("bee", "cat"):
        shutil.copy(tree / f"train/{name}/000.png", tree / f"val/{name}/000.png")
    with pytest.raises(UserError, match="one is a copy of the other"):
        project()


def test_an_unreadable_image_of_the_sample_stops_extraction(project, tree, monkeypatch):
    project("dataset.unreadable=skip")
    teach.main()
    (tree / "val/ant/000.png").write_bytes(b"no image")
    monkeypatch.setattr(sys, "argv", ["extract", "--backbone", "teacher"])
    with pytest.raises(UserError, match=r"val/ant/000\.png cannot be read as an image"):
        extract.main()


def test_a_part_of_the_training_images_can_be_held_out(project, tree, tmp_path, monkeypatch):
    folder = project("dataset.held_out=0.25")
    manifest = json.loads((folder / "reports/data.json").read_text())
    assert (manifest["train"]["images"], manifest["val"]["images"]) == (9, 3)
    assert manifest["val"]["images_per_class"] == {"min": 1, "max": 1}
    assert manifest["dataset"] != "folder"
    kept, held = ((folder / f"artifacts/prepare/{part}.txt").read_text().split() for part in ("train", "val"))
    every = {path.relative_to(tree / "train").as_posix() for path in (tree / "train").glob("*/*")}
    assert {*kept, *held} == every and not {*kept} & {*held}
    before = written(folder)
    (tree / "val").rename(tmp_path / "away")
    assert written(project("dataset.held_out=0.25")) == before
    teach.main()
    assert written(project("dataset.held_out=0.25", "dataset.split_seed=1")) != before
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(tree / "train", ".")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert written(project("dataset.held_out=0.25", "dataset.reader=tar")) == before
    with pytest.raises(UserError, match=r"held_out 0\.1 leaves none on one side"):
        project("dataset.held_out=0.1", "dataset.reader=tar")


def test_images_on_the_device_train_a_teacher(project):
    folder = project("teacher.recipe.augment.on_device=true", "teacher.recipe.augment.padding=1")
    teach.main()
    metrics = json.loads((folder / "artifacts/teach/metrics.json").read_text())
    assert metrics["epochs"] == 2 and 0 <= metrics["top1"] <= 100
