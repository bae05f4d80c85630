import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.data import folders
from stages.core.data.digits import export_digits
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList
from stages.core.data.splits import (
    analysis_sample,
    check_copies,
    check_splits,
    describe,
    digest,
    labels,
    name_digests,
    read_index,
)

DIGITS = {"train_split": "train", "val_split": "val", "val_images": 450}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "images"
    export_digits(folder, **DIGITS, seed=0)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_digits_are_split_by_class(digits):
    train, val = scan(digits / "train"), scan(digits / "val")
    assert (len(train.files), len(val.files)) == (1347, 450)
    check_splits(train, val, classes=10)
    for name, count in val.per_class().items():
        assert abs(count - (count + train.per_class()[name]) * 450 / 1797) <= 1


def test_digits_are_each_exported_once(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    files = sorted(digits.rglob("*.png"), key=lambda path: path.name)
    assert [path.stem for path in files] == [f"{index:04d}" for index in range(1797)]
    assert [int(path.parent.name) for path in files] == source.target.tolist()
    for path, scan_of_digit in zip(files[::100], source.images[::100], strict=True):
        np.testing.assert_array_equal(np.array(Image.open(path)), np.round(scan_of_digit * 255 / 16))


def test_digits_have_the_same_bytes_every_time_and_the_split_is_by_seed(digits, tmp_path):
    export_digits(tmp_path / "other", **DIGITS, seed=1)
    by_name = [{Path(path).name: content for path, content in contents(root).items()} for root in (tmp_path, digits)]
    assert by_name[0] == by_name[1]
    assert contents(tmp_path / "other").keys() != contents(digits).keys()


@pytest.mark.parametrize("val_images", [5, 1795, 5000])
def test_splits_too_small_for_every_class_are_refused(tmp_path, val_images):
    with pytest.raises(UserError, match=f"val_images {val_images}"):
        export_digits(tmp_path / "digits", train_split="train", val_split="val", val_images=val_images, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_scan_lists_images_by_path(tree):
    (tree / "train/bee/nested").mkdir()
    (tree / "train/ant/000.png").rename(tree / "train/bee/nested/000.JPEG")
    (tree / "train/cat/notes.txt").write_text("no image")
    split = scan(tree / "train")
    assert split.classes == ("ant", "bee", "cat")
    assert split.files[:5] == ("ant/001.png", "ant/002.png", "ant/003.png", "bee/000.png", "bee/001.png")
    assert split.files[7] == "bee/nested/000.JPEG"
    assert split.files == tuple(sorted(split.files))
    assert split.labels() == [0] * 3 + [1] * 5 + [2] * 4
    assert split.per_class() == {"ant": 3, "bee": 5, "cat": 4}
    assert split.sizes == tuple((tree / "train" / file).stat().st_size for file in split.files)


def test_a_missing_split_is_named(tree):
    with pytest.raises(UserError, match=r"/valid is not a folder .*train, val"):
        scan(tree / "valid")
    with pytest.raises(UserError, match=r"/nowhere/train is not a folder"):
        scan(tree / "nowhere/train")


def test_a_split_without_classes_is_named(tree):
    (tree / "flat").mkdir()
    (tree / "flat/image.png").write_bytes(b"image")
    with pytest.raises(UserError, match="/flat holds no class folder, but images"):
        scan(tree / "flat")


def test_an_empty_class_is_named(tree):
    (tree / "train/dog").mkdir()
    with pytest.raises(UserError, match="/train/dog holds no image"):
        scan(tree / "train")


def test_a_link_to_nowhere_is_named(tree):
    (tree / "train/bee/900.png").symlink_to(tree / "gone.png")
    with pytest.raises(UserError, match=r"/train/bee/900\.png is a link that leads nowhere"):
        scan(tree / "train")


@pytest.mark.parametrize("name", ["train/dog", "train/bee/more"])
def test_a_folder_that_is_a_link_to_nowhere_is_named(tree, name):
    (tree / name).symlink_to(tree / "gone")
    with pytest.raises(UserError, match=f"/{name} is a link that leads nowhere"):
        scan(tree / "train")


def test_a_link_to_a_folder_above_is_named(tree):
    (tree / "train/bee/loop").symlink_to(tree / "train/bee", target_is_directory=True)
    with pytest.raises(UserError, match="loop links back"):
        scan(tree / "train")


def test_an_unprintable_name_is_refused(tree):
    (tree / "train/bee/000.png").rename(tree / "train/bee/0\n0.png")
    with pytest.raises(UserError, match="control or undecodable character"):
        scan(tree / "train")


def test_differing_classes_are_named(tree):
    shutil.rmtree(tree / "val/bee")
    with pytest.raises(UserError, match="different classes: only one of them has bee"):
        check_splits(scan(tree / "train"), scan(tree / "val"), classes=3)


def test_a_wrong_number_of_classes_is_named(tree):
    with pytest.raises(UserError, match=r"has 3 classes, dataset\.classes says 4"):
        check_splits(scan(tree / "train"), scan(tree / "val"), classes=4)


def check_images(tree):
    train, val = scan(tree / "train"), scan(tree / "val")
    assert (train.files, train.sizes) == (val.files, val.sizes)
    check_copies(*(ImageList(Path(part.place), list(part.files), part.labels()) for part in (train, val)))


def test_a_copy_of_the_training_images_is_refused_and_contents_decide(tree):
    shutil.rmtree(tree / "val")
    shutil.copytree(tree / "train", tree / "val")
    with pytest.raises(UserError, match="is a copy of the other"):
        check_images(tree)
    file = tree / "val/bee/001.png"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    check_images(tree)


def test_linked_splits_are_refused(tree):
    shutil.rmtree(tree / "val")
    (tree / "val").symlink_to(tree / "train", target_is_directory=True)
    with pytest.raises(
        UserError, match=r"train and validation share 12 files .*: .*/train/ant/000\.png and .*; …; sep"
    ):
        check_splits(scan(tree / "train"), scan(tree / "val"), classes=3)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_linked_image_is_refused(tree, link):
    getattr(tree / "val/ant/leak.png", link)(tree / "train/ant/000.png")
    pair = rf"{tree}/train/ant/000\.png and {tree}/val/ant/leak\.png"
    with pytest.raises(UserError, match=rf"train and validation share 1 files .*: {pair}; separate them"):
        check_splits(scan(tree / "train"), scan(tree / "val"), classes=3)


def test_analysis_sample_takes_the_first_of_each_class_by_name(tree):
    assert analysis_sample(scan(tree / "train"), 2) == [f"{c}/00{i}.png" for c in ("ant", "bee", "cat") for i in (0, 1)]


def test_a_class_too_small_for_the_sample_is_named(tree):
    (tree / "val/bee/001.png").unlink()
    with pytest.raises(UserError, match="class bee has 1 validation images"):
        analysis_sample(scan(tree / "val"), 2)


def add(folder):
    shutil.copy(folder / "ant/000.png", folder / "ant/900.png")


def remove(folder):
    (folder / "cat/003.png").unlink()


def resize(folder):
    with (folder / "bee/001.png").open("ab") as file:
        file.write(b"\0")


def rename(folder):
    (folder / "bee/001.png").rename(folder / "bee/901.png")


def empty_class(folder):
    shutil.rmtree(folder / "cat")


@pytest.mark.parametrize("change", [add, remove, resize, rename, empty_class])
@pytest.mark.parametrize("of_contents", [False, True])
def test_digest_notices_changes(tree, change, of_contents):
    folder = tree / "train"
    before = digest(scan(folder), folder if of_contents else None)
    assert digest(scan(folder), folder if of_contents else None) == before
    change(folder)
    assert digest(scan(folder), folder if of_contents else None) != before


def test_times_and_order_on_disk_change_nothing(tree, tmp_path):
    before = describe(scan(tree / "train"))
    for path in (tree / "train").rglob("*"):
        os.utime(path, (0, 0))
    copy = tmp_path / "copy"
    for path in sorted((tree / "train").rglob("*.png"), reverse=True):
        target = copy / path.relative_to(tree / "train")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert describe(scan(tree / "train")) == before == describe(scan(copy))


def test_many_classes_are_listed_in_parallel_as_few_are(tmp_path, make_split, monkeypatch):
    folder = make_split(tmp_path / "many", tuple(f"n{number}" for number in range(folders.PARALLEL_FROM)), images=2)
    (folder / "n7" / "nested").mkdir()
    (folder / "n7/000.png").rename(folder / "n7/nested/000.png")
    parallel = scan(folder)
    monkeypatch.setattr(folders, "PARALLEL_FROM", 10**9)
    alone = scan(folder)
    assert parallel == alone
    np.testing.assert_array_equal(parallel.inodes, alone.inodes)
    found = sorted(path for path in folder.rglob("*.png"))
    assert set(parallel.files) == {path.relative_to(folder).as_posix() for path in found}
    by_file = dict(zip(parallel.files, parallel.inodes.tolist(), strict=True))
    assert all(by_file[path.relative_to(folder).as_posix()][1] == path.stat().st_ino for path in found)


def test_faults_are_named_from_parallel_listing_too(tmp_path, make_split):
    folder = make_split(tmp_path / "many", tuple(f"n{number}" for number in range(folders.PARALLEL_FROM)), images=1)
    (folder / "n9/000.png").unlink()
    with pytest.raises(UserError, match="/n9 holds no image"):
        scan(folder)


def test_files_are_sorted_by_path_whatever_the_classes_are_called(tmp_path, make_split):
    split = scan(make_split(tmp_path / "split", ("ant", "ant-eater", "ant.2", "10", "9", "B"), images=2))
    assert split.files == tuple(sorted(split.files))
    assert split.per_class() == dict.fromkeys(("9", "10", "ant", "ant-eater", "ant.2", "B"), 2)


def test_labels_are_those_of_timm(tmp_path, make_split):
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    folder = make_split(tmp_path / "split", ("2", "10", "1", "b", "C", "a9", "a10", "n02", "A1"), images=2)
    reader = ReaderImageFolder(str(folder))
    split = scan(folder)
    assert {name: label for label, name in enumerate(split.classes)} == reader.class_to_idx
    expected = {reader.filename(index): reader.samples[index][1] for index in range(len(reader))}
    assert dict(zip(split.files, split.labels(), strict=True)) == expected


def test_digest_of_contents_notices_what_sizes_hide(tree):
    folder = tree / "train"
    file = folder / "bee/001.png"
    names, contents_ = digest(scan(folder)), digest(scan(folder), folder)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert digest(scan(folder)) == names
    assert digest(scan(folder), folder) != contents_


def test_description_does_not_hang_on_the_location(tree, tmp_path):
    moved = tmp_path / "elsewhere/photos"
    shutil.copytree(tree / "train", moved)
    assert describe(scan(moved)) == describe(scan(tree / "train"))
    assert describe(scan(moved), moved) == describe(scan(tree / "train"), tree / "train")
    (moved / "notes.txt").write_text("no image")
    assert describe(scan(moved)) == describe(scan(tree / "train")) | {"left_out": {".txt": 1}}


def test_description_counts_images_and_bytes(tree):
    remove(tree / "train")
    found = describe(scan(tree / "train"))
    assert found["images"] == 11
    assert found["bytes"] == sum(path.stat().st_size for path in (tree / "train").rglob("*.png"))
    assert found["images_per_class"] == {"min": 3, "max": 4}


def test_names_are_known_wherever_the_files_lie_and_whatever_classes_are_called(tree, tmp_path):
    found = name_digests(scan(tree / "train"))
    firsts = b"000.png\n" * 3
    assert found["first_of_class_sha256"] == hashlib.sha256(firsts).hexdigest()
    assert found["names_sha256"] == hashlib.sha256(b"".join(b"%03d.png\n" % (i // 3) for i in range(12))).hexdigest()
    moved = tmp_path / "elsewhere"
    shutil.copytree(tree / "train", moved)
    for old, new in (("ant", "0"), ("bee", "1"), ("cat", "2")):
        (moved / old).rename(moved / new)
    assert name_digests(scan(moved)) == found
    (moved / "2/000.png").rename(moved / "2/9.png")  # 001.png is now the first
    assert not {*name_digests(scan(moved)).values()} & {*found.values()}


def test_index_gives_files_and_labels(tree, tmp_path):
    index = tmp_path / "val.txt"
    split = scan(tree / "val")
    index.write_text("\n".join(split.files) + "\n")
    files = read_index(index)
    assert tuple(files) == split.files
    assert labels(files, split.classes) == split.labels()
    assert Counter(labels(files, split.classes)) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(UserError, match=r"train\.txt is missing"):
        read_index(tmp_path / "train.txt")


def test_a_listed_file_that_is_gone_or_closed_is_named(tree):
    images = ImageList(tree / "train", ["ant/000.png", "ant"], [0, 0])
    assert images.sample(0)[1] == 0
    (tree / "train/ant/000.png").unlink()
    for index, reason in ((0, r"ant/000\.png is missing"), (1, r"train/ant cannot be read \(Is a directory\)")):
        with pytest.raises(UserError, match=reason) as caught:
            images.sample(index)
        assert not isinstance(caught.value, UnreadableImageError)
