"""Hugging Face datasets, offline: collected where the extra is installed (see conftest.py), as the test extra does."""

import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.data.batches import Images
from stages.core.data.folders import Folders
from stages.core.data.hub import Hub
from stages.core.data.loader import Loader
from stages.core.data.splits import analysis_sample, check_splits, describe

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def write(tree, copy, *, named=True, images="image", labels="label", label=None, drop=()):
    """A copy of the tree as a dataset of parquet files, its rows in an order of their own."""
    (copy / "data").mkdir(parents=True, exist_ok=True)
    features = {images: datasets.Image(), labels: label or datasets.ClassLabel(names=NAMES)}
    for split in ("train", "val"):
        paths = [path for path in (tree / split).rglob("*.png") if path.name not in drop]
        paths.sort(key=lambda path: (path.name, path.parent.name), reverse=True)
        columns = {
            images: [{"bytes": path.read_bytes(), "path": path.name if named else None} for path in paths],
            labels: [NAMES.index(path.parent.name) for path in paths],
        }
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(copy / f"data/{split}-00000-of-00001.parquet")


@pytest.fixture
def make_hub(tree, tmp_path):
    def make(columns=None, **options):
        write(tree, tmp_path / "copies/zoo/three", **options)
        return Hub("zoo/three", tmp_path / "copies", columns)

    return make


def contents(source, split, files, classes):
    images = source.open(split, list(files), classes)
    return [(np.asarray(image).tolist(), label) for image, label in map(images.sample, range(len(images.files)))]


def test_rows_give_what_the_folders_give(tree, make_hub):
    hub, folders = make_hub(), Folders(tree)
    for split in ("train", "val"):
        expected, found = folders.scan(split), hub.scan(split)
        assert found.classes == ("0 ant", "1 bee", "2 cat")
        assert [file.split("/")[2] for file in found.files] == [file.split("/")[1] for file in expected.files]
        assert found.labels() == expected.labels()
        counts = ("images", "bytes", "images_per_class")
        assert [describe(found)[key] for key in counts] == [describe(expected)[key] for key in counts]
        assert contents(hub, split, found.files, found.classes) == contents(
            folders, split, expected.files, expected.classes
        )
    check_splits(hub.scan("train"), hub.scan("val"), classes=3)


@pytest.mark.parametrize("named", [True, False])
def test_the_sample_is_the_first_by_name_else_by_row(tree, make_hub, named):
    hub, folders = make_hub(named=named), Folders(tree)
    found, expected = hub.scan("train"), folders.scan("train")
    sample = contents(hub, "train", analysis_sample(found, 2), found.classes)
    by_name = contents(folders, "train", analysis_sample(expected, 2), expected.classes)
    by_row = contents(folders, "train", [f"{n}/{i}.png" for n in NAMES for i in ("003", "002")], expected.classes)
    assert sample == (by_name if named else by_row)


@pytest.mark.parametrize("change", ["add", "remove", "resize", "relabel"])
def test_a_changed_dataset_is_noticed(tree, make_hub, change):
    before = describe(make_hub().scan("train"))
    assert describe(make_hub().scan("train")) == before
    file = tree / "train/bee/001.png"
    if change == "add":
        shutil.copy(file, file.with_name("900.png"))
    elif change == "remove":
        file.unlink()
    elif change == "resize":
        file.write_bytes(file.read_bytes() + b"\0")
    else:
        file.rename(tree / "train/ant/001b.png")
    assert describe(make_hub().scan("train")) != before


def test_folders_of_images_are_a_dataset_too(tree, tmp_path):
    hub = Hub("data", tmp_path)
    found, expected = hub.scan("train"), Folders(tree).scan("train")
    assert (found.labels(), found.sizes) == (expected.labels(), expected.sizes)
    assert contents(hub, "train", found.files, found.classes) == contents(
        Folders(tree), "train", expected.files, expected.classes
    )


def test_files_of_a_folder_that_are_no_rows_are_counted(tree, tmp_path):
    for name in ("train/ant/a.heic", "train/b.jxl", "val/ant/c.heic", "train/ant/._a.png", "train/metadata.txt"):
        (tree / name).write_bytes(b"no row")
    assert Hub("data", tmp_path).scan("train").left_out == {".heic": 1, ".jxl": 1}


def test_columns_of_other_names(make_hub):
    hub = make_hub(("img", "fine"), images="img", labels="fine")
    assert hub.scan("val").per_class() == {"0 ant": 2, "1 bee": 2, "2 cat": 2}
    with pytest.raises(UserError, match=r"no column label, only img, fine; set dataset\.columns"):
        Hub(hub.name, hub.root).scan("val")
    with pytest.raises(UserError, match=r"row 0 has no image in image; set dataset\.columns"):
        Hub(hub.name, hub.root, ("image", "fine")).scan("val")


def test_labels_without_names_are_numbers(make_hub):
    assert make_hub(label=datasets.Value("int64")).scan("val").classes == ("0", "1", "2")


def test_faulty_datasets_are_named(tree, make_hub, tmp_path):
    with pytest.raises(UserError, match=r"split valid: .*valid"):
        make_hub().scan("valid")
    with pytest.raises(UserError, match=r"zoo/none, split train: .*check dataset\.reader, dataset\.columns and"):
        Hub("zoo/none", tmp_path).scan("train")
    with pytest.raises(UserError, match="not every row has a class label in label"):
        make_hub(label=datasets.Value("string")).scan("train")
    with pytest.raises(UserError, match="no row has the label 3"):
        make_hub(label=datasets.ClassLabel(names=[*NAMES, "dog"])).scan("train")
    with pytest.raises(UserError, match=r"split train: .*check dataset\.reader"):
        Hub("zoo/three", tmp_path / "copies", ("label", "label")).scan("train")
    hub = make_hub()
    listed = hub.scan("train")
    make_hub(drop={"000.png"})
    with pytest.raises(UserError, match="has 9 rows, fewer than listed"):
        hub.open("train", list(listed.files), listed.classes)


def test_unreadable_rows_are_named(tree, make_hub):
    (tree / "train/ant/002.png").write_bytes(b"no image")
    hub = make_hub()
    listed = hub.scan("train")
    images = hub.open("train", list(listed.files), listed.classes)
    with pytest.raises(UserError, match=r"zoo/three/train/0 ant/5/002\.png cannot be read as an image"):
        images.sample(2)


def test_workers_read_the_same_images(make_hub):
    hub = make_hub()
    listed = hub.scan("train")
    images = hub.open("train", list(listed.files), listed.classes)
    dataset = Images(images, lambda image: torch.from_numpy(np.array(image)))
    alone, several = (list(Loader(dataset, batch_size=4, workers=workers)) for workers in (0, 2))
    for found, expected in zip(several, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(images)).content(1) == images.content(1)


def test_rows_of_odd_names_are_listed_by_them_without_controls(tree, make_hub):
    (tree / "train/ant/000.png").rename(tree / "train/ant/a\u200db\n\x85.png")
    assert "a\u200db__.png" in {file.split("/")[2] for file in make_hub().scan("train").files}
