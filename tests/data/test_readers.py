import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from stages.core.base.errors import UserError
from stages.core.data.folders import Folders
from stages.core.data.splits import analysis_sample, check_splits, describe
from stages.core.data.tars import Tars
from tests.data.test_unreadable import epoch


def whole_tar(folder, target):
    """The class folders, in an order of their own."""
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        for path in sorted(folder.rglob("*.png"), reverse=True):
            archive.add(path, path.relative_to(folder))


def dotted_tar(folder, target):
    """As `tar cf train.tar ./train` makes it: with folders, and files that are no image."""
    (folder / "notes.txt").write_text("no image")
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        archive.add(folder, f"./{folder.name}")


def class_tars(folder, target):
    """A folder of one tar per class."""
    target.mkdir()
    for path in folder.iterdir():
        with tarfile.open(target / f"{path.name}.tar", "w") as archive:
            for image in path.iterdir():
                archive.add(image, image.name)


def tar_of_tars(folder, target):
    """One tar of one tar per class, as ImageNet's training images come."""
    inner = target.with_suffix(".inner")
    class_tars(folder, inner)
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        for path in inner.iterdir():
            archive.add(path, path.name)


@pytest.fixture(params=[whole_tar, dotted_tar, class_tars, tar_of_tars], ids=lambda make: make.__name__)
def tars(tree, tmp_path, request):
    """The tree's splits as archives of some layout."""
    root = tmp_path / "tars"
    root.mkdir()
    for split in ("train", "val"):
        request.param(tree / split, root / split)
    return Tars(root, tmp_path / "cache")


@pytest.fixture
def tar(tree, tmp_path):
    """The tree's training images as one archive."""
    (tmp_path / "tars").mkdir()
    whole_tar(tree / "train", tmp_path / "tars/train")
    return Tars(tmp_path / "tars", tmp_path / "cache")


def samples(source, split, listed):
    images = source.open(split, list(listed.files), listed.classes)
    return [(np.asarray(image).tolist(), label) for image, label in map(images.sample, range(len(listed.files)))]


def test_archives_give_what_the_folders_give(tree, tars):
    folders = Folders(tree)
    for split in ("train", "val"):
        expected, found = folders.scan(split), tars.scan(split)
        assert found == expected
        assert describe(found) == describe(expected)
        assert analysis_sample(found, 2) == analysis_sample(expected, 2)
        assert samples(tars, split, found) == samples(folders, split, expected)
    check_splits(tars.scan("train"), tars.scan("val"), classes=3)


def test_archives_are_read_as_timm_reads_them(tars):
    listed = tars.scan("train")
    images = tars.open("train", list(listed.files), listed.classes)
    whole = tars.root / "train.tar"
    reader = ReaderImageInTar(str(whole if whole.is_file() else tars.root / "train"), cache_tarinfo=False)
    expected = sorted((file.read(), int(label)) for file, label in map(reader.__getitem__, range(len(reader))))
    assert sorted((images.content(index), images.labels[index]) for index in range(len(images.files))) == expected


def test_an_unchanged_archive_is_listed_once(tars, monkeypatch):
    first = tars.scan("train")
    monkeypatch.setattr("stages.core.data.tars.list_archive", None)
    again = tars.scan("train")
    assert again == first
    assert samples(tars, "train", again) == samples(tars, "train", first)


@pytest.mark.parametrize("change", ["add", "remove", "resize"])
def test_a_changed_archive_is_noticed(tree, tar, change):
    before = tar.scan("train")
    file = tree / "train/bee/000.png"
    if change == "add":
        (tree / "train/bee/900.png").write_bytes(file.read_bytes())
    elif change == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"\0")
    whole_tar(tree / "train", tar.root / "train")
    after = tar.scan("train")
    assert describe(after) != describe(before)
    assert describe(after) == describe(Folders(tree).scan("train"))


def test_a_touched_archive_is_listed_again_and_is_the_same(tar, capsys):
    before = tar.scan("train")
    os.utime(tar.root / "train.tar", (0, 0))
    assert tar.scan("train") == before
    assert capsys.readouterr().err.count("listing") == 2


def test_a_damaged_listing_is_made_anew(tar):
    before = tar.scan("train")
    (listing,) = tar.cache.iterdir()
    listing.write_text(listing.read_text()[:-60])
    assert tar.scan("train") == before


def test_the_last_of_several_members_of_one_path_counts(tree, tar):
    changed = tree / "train/cat/001.png"
    changed.write_bytes((tree / "train/ant/001.png").read_bytes() + b"\0\0")
    with tarfile.open(tar.root / "train.tar", "a") as archive:
        archive.add(changed, "cat/001.png")
    listed = tar.scan("train")
    assert listed == Folders(tree).scan("train")
    assert samples(tar, "train", listed) == samples(Folders(tree), "train", listed)


def test_nothing_is_written_beside_the_archives(tar):
    tar.scan("train")
    assert [path.name for path in tar.root.iterdir()] == ["train.tar"]


def test_two_images_of_one_name_are_refused(tree, tmp_path):
    for shard in ("a", "b"):
        (tmp_path / "shards/train").mkdir(parents=True, exist_ok=True)
        whole_tar(tree / "train", tmp_path / "shards/train" / shard)
    with pytest.raises(UserError, match=r"b\.tar holds a second \w+/00\d\.png"):
        Tars(tmp_path / "shards", tmp_path / "cache").scan("train")


def test_faulty_archives_are_named(tree, tar):
    with pytest.raises(UserError, match=r"holds neither valid\.tar nor a folder valid of tar archives"):
        tar.scan("valid")
    archive = tar.root / "train.tar"
    whole = archive.read_bytes()
    for damaged in (whole[:1300], b"no archive" * 200):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"train\.tar is not a whole tar archive"):
            tar.scan("train")
    with tarfile.open(archive, "w") as empty:
        empty.add(__file__, "ant/notes.txt")
    with pytest.raises(UserError, match=r"train\.tar holds no image"):
        tar.scan("train")


def test_an_archive_that_lost_a_listed_image_is_named(tree, tar):
    listed = tar.scan("train")
    (tree / "train/ant/002.png").unlink()
    whole_tar(tree / "train", tar.root / "train")
    with pytest.raises(UserError, match=r"no ant/002\.png, but it is listed; run `dvc repro prepare`"):
        tar.open("train", list(listed.files), listed.classes)


def test_one_archive_for_both_splits_is_refused(tar):
    (tar.root / "val.tar").symlink_to(tar.root / "train.tar")
    pair = rf"{tar.root}/train\.tar and {tar.root}/val\.tar"
    with pytest.raises(UserError, match=rf"train and validation share 1 files .*: {pair}; separate them"):
        check_splits(tar.scan("train"), tar.scan("val"), classes=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_archives_train_as_folders_do(tree, tars, make_student, workers):
    model = make_student("lift")
    listed = tars.scan("train")
    expected = epoch(Folders(tree).open("train", list(listed.files), listed.classes), model, 0)
    images = tars.open("train", list(listed.files), listed.classes)
    images.sample(0)  # what one process has read must not disturb the others
    for found, wanted in zip(epoch(images, model, workers), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_lists_travel_to_processes_that_do_not_fork(tar):
    listed = tar.scan("train")
    images = tar.open("train", list(listed.files), listed.classes)
    assert pickle.loads(pickle.dumps(images)).content(3) == images.content(3)
