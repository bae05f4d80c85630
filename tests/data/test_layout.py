"""Images, classes, leftovers and names: the same for every reader."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from stages.core.base.errors import UserError
from stages.core.data import folders, layout
from stages.core.data.folders import Folders, scan
from stages.core.data.pool import in_processes
from stages.core.data.splits import check_classes, check_splits, describe, hold_out
from stages.core.data.tars import Tars

IMAGES = ("cat/indoor/1.png", "cat/outdoor/1.png", "dog/outdoor/2.png", "fox/3.png")
LEFTOVERS = (
    "cat/indoor/._1.png",
    "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
    "dog/Thumbs.db",
    "dog/.AppleDouble/2.png",
    ".DS_Store",
    ".ipynb_checkpoints/1.png",
    "__MACOSX/cat/._1.png",
    "$RECYCLE.BIN/1.png",
    "#recycle/1.png",
    ".Trashes/501/1.png",
)


def write(folder: Path, names) -> Path:
    """Files of a few bytes, which differ by name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode(errors="surrogateescape"))
    return folder


def tar_of(root: Path, members, name="train") -> Tars:
    """An archive of members: names, or tuples of a name, a type and what a link leads to."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"{name}.tar", "w") as archive:
        for member in members:
            path, kind, target = member if isinstance(member, tuple) else (member, tarfile.REGTYPE, "")
            info = tarfile.TarInfo(path)
            info.type, info.linkname = kind, target
            content = path.encode(errors="surrogateescape") if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return Tars(root, root / "cache")


def contents(source, split):
    images = source.open("train", list(split.files), split.classes)
    return [images.content(index).decode() for index in range(len(images.files))]


@pytest.mark.parametrize("wrapper", ["", "./", "train/", "./data/train/"])
def test_classes_are_the_outermost_folders_whichever_the_reader(tmp_path, wrapper):
    expected = scan(write(tmp_path / "folders", IMAGES))
    assert expected.classes == ("cat", "dog", "fox") and expected.files == IMAGES
    names = [wrapper.removeprefix("./") + name for name in IMAGES]
    write(tmp_path / "wrapped/train", [*names, "__MACOSX/1.png"])
    wrapped = Folders(tmp_path / "wrapped").scan("train")
    assert (wrapped.classes, wrapped.files) == (expected.classes, expected.files)
    assert contents(Folders(tmp_path / "wrapped"), expected) == names
    tars = tar_of(tmp_path, [wrapper + name for name in IMAGES])
    found = tars.scan("train")
    assert (found.classes, found.files) == (expected.classes, expected.files)
    assert contents(tars, expected) == [wrapper + name for name in IMAGES]


def test_folders_of_tiny_imagenet_are_not_a_class(tmp_path):
    names = [f"n0{number}/images/n0{number}_{image}.JPEG" for number in (1, 2) for image in (0, 1)]
    expected = scan(write(tmp_path / "folders", names))
    assert expected.classes == ("n01", "n02")
    assert tar_of(tmp_path / "whole", names).scan("train") == expected
    for name in ("n01", "n02"):  # an archive for each class, with a folder of its own within
        tars = tar_of(
            tmp_path / "each", [path.partition("/")[2] for path in names if path.startswith(name)], f"train/{name}"
        )
    assert tars.scan("train").per_class() == {"n01": 2, "n02": 2}


def test_an_image_outside_the_classes_is_named(tmp_path):
    with pytest.raises(UserError, match=r"/0\.png is in no class folder"):
        scan(write(tmp_path / "folders", [*IMAGES, "0.png"]))
    with pytest.raises(UserError, match=r"holds train/0\.png in no class folder"):
        tar_of(tmp_path, ["train/0.png", *(f"train/{name}" for name in IMAGES)]).scan("train")


def test_leftovers_are_passed_over_and_counted_whichever_the_reader(tmp_path):
    clean = scan(write(tmp_path / "clean", IMAGES))
    folders = scan(write(tmp_path / "folders", IMAGES + LEFTOVERS))
    archive = tar_of(tmp_path, IMAGES + LEFTOVERS).scan("train")
    assert tar_of(tmp_path, IMAGES + LEFTOVERS).scan("train") == archive == folders  # the second time from the cache
    assert (folders.files, folders.classes, folders.passed_over) == (clean.files, clean.classes, len(LEFTOVERS))
    assert describe(folders) == describe(clean) | {"passed_over": len(LEFTOVERS)}
    assert "passed_over" not in describe(clean)
    many = scan(write(tmp_path / "many", [f"cat/{image}.png" for image in range(9)] + ["cat/.DS_Store"]))
    assert [part.passed_over for part in hold_out(many, 0.3, 0)] == [1, 0]


def test_files_of_other_kinds_are_counted_whichever_the_reader(tmp_path):
    others = ("cat/1.heic", "cat/indoor/2.HEIC", "dog/1.jxl", "dog/notes.txt", "dog/3.0 final", "fox/more", "list.csv")
    kinds = {".heic": 2, ".jxl": 1, ".txt": 1, "other file": 2, ".csv": 1}
    clean = scan(write(tmp_path / "clean", IMAGES))
    folders = scan(write(tmp_path / "folders", IMAGES + others + LEFTOVERS))
    tars = tar_of(tmp_path, IMAGES + others + LEFTOVERS)
    assert tars.scan("train") == tars.scan("train") == folders
    assert describe(folders) == describe(clean) | {"passed_over": len(LEFTOVERS), "left_out": kinds}
    assert "left_out" not in describe(clean)
    with pytest.raises(UserError, match=r"3 classes \(left out of .*: 10 leftovers, 2 \.heic, 2 other files, 1 \.csv"):
        check_classes(folders, classes=4)
    many = scan(write(tmp_path / "many", [*(f"cat/{image}.png" for image in range(9)), "cat/1.heic"]))
    assert [dict(part.left_out) for part in hold_out(many, 0.3, 0)] == [{".heic": 1}, {}]
    with pytest.raises(
        UserError, match=r"/ant holds no image \(.*\.avif.*\) but 2 \.heic; remove the class or fill it"
    ):
        scan(write(tmp_path / "none", [*IMAGES, "ant/1.heic", "ant/2.heic"]))


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".avif", ".pgm", ".JP2", ".qoi"])
def test_images_of_many_suffixes_are_listed_whichever_the_reader(tmp_path, suffix):
    names = (f"cat/1{suffix}", *IMAGES)
    assert scan(write(tmp_path / "folders", names)).files == tuple(sorted(names))
    assert tar_of(tmp_path, names).scan("train").files == tuple(sorted(names))


@pytest.mark.parametrize("archive", ["ant.tar", "ant.zip", "ant.tar.gz"])
def test_a_class_that_is_packed_is_not_left_out(tmp_path, archive):
    with pytest.raises(UserError, match=f"holds {archive} beside class folders; unpack it"):
        scan(write(tmp_path / "folders", [*IMAGES, archive]))
    (tmp_path / "folders" / archive).rename(tmp_path / "folders" / archive.replace("ant", "cat"))  # unpacked already
    kind = Path(archive).suffix
    assert scan(tmp_path / "folders").left_out == {kind: 1}


def test_a_class_that_is_not_packed_is_not_left_out(tmp_path):
    for name in ("cat", "dog"):
        tars = tar_of(tmp_path, ["1.png"], f"train/{name}")
    write(tmp_path, ["train/cat/1.png", "train/notes.txt"])
    assert tars.scan("train").left_out == {"folder": 1, ".txt": 1}
    write(tmp_path, ["train/fox/1.png"])
    with pytest.raises(UserError, match="train holds the folders cat, fox beside tar archives"):
        tars.scan("train")
    (tmp_path / "train/fox/1.png").rename(tmp_path / "train/1.png")
    with pytest.raises(UserError, match=r"train/1\.png is in no class folder"):
        tars.scan("train")


FLAT = ("0.png", "1.png", "2.JPEG")
LISTS = {
    "train.csv": "image,label\n2.JPEG,fox\n0.png,cat\n1.png,dog\ngone.png,dog\n",
    "train.txt": "train/0.png cat\n\n1.png dog\n2 fox\n",
    "LOC_train_solution.csv": "ImageId,PredictionString\n0,n00000001 3 4 5 6 n0 1\n1,n00000002 1\n2,n00000003\n",
    "train/train_annotations.txt": "0.png\tcat\t0\t32\n1.png\tdog\t1\t2\n2.JPEG\tfox\t3\t4\n",
}


@pytest.mark.parametrize("wrapper", ["", "images/"])
@pytest.mark.parametrize("place", LISTS)
def test_flat_images_have_the_classes_of_a_list_whichever_the_reader(tmp_path, place, wrapper):
    classes = ("n00000001", "n00000002", "n00000003") if "LOC" in place else ("cat", "dog", "fox")
    names = [f"{name}/{file}" for name, file in zip(classes, FLAT, strict=True)]
    expected = scan(write(tmp_path / "folders", names))
    flat = write(tmp_path / "flat/train", [wrapper + file for file in FLAT]).parent
    (flat / place).write_text(LISTS[place])
    found = Folders(flat).scan("train")
    assert (found.classes, found.files, found.left_out) == (classes, expected.files, {})
    assert contents(Folders(flat), found) == [wrapper + file for file in FLAT]
    assert [tuple(inode) for inode in found.inodes.tolist()] == [
        ((flat / "train" / wrapper / file).stat().st_dev, (flat / "train" / wrapper / file).stat().st_ino)
        for file in FLAT
    ]
    tars = tar_of(flat, [wrapper + file for file in FLAT])
    assert (tars.scan("train").classes, tars.scan("train").files) == (classes, expected.files)
    assert contents(tars, found) == [wrapper + file for file in FLAT]
    (flat / place).write_text(LISTS[place].replace(classes[2], classes[0]))
    assert tars.scan("train").classes == Folders(flat).scan("train").classes == classes[:2]


def test_flat_images_without_a_class_are_named_whichever_the_reader(tmp_path):
    write(tmp_path / "train", FLAT)
    sources = Folders(tmp_path), tar_of(tmp_path, FLAT)
    lists = {
        "0.png,cat\n1.png,dog\n": r"gives 2\.JPEG no class",
        "0.png,cat\n1.png,dog\n2,fox\n1,cat\n": "does not give 1 one class",
        "0.png,cat\n1.png\n": r"does not give 1\.png one class",
    }
    for source in sources:
        (tmp_path / "train.csv").unlink(missing_ok=True)
        with pytest.raises(
            UserError, match=r"no class folder, but images: .*train\.csv .*LOC_val_solution\.csv"
        ) as caught:
            source.scan("train")
        assert "\n" not in str(caught.value)
        for text, message in lists.items():
            (tmp_path / "train.csv").write_text(text)
            with pytest.raises(UserError, match=message):
                source.scan("train")
    write(tmp_path / "val", IMAGES)
    (tmp_path / "val.txt").write_text("1.png 0\n")  # beside class folders a list counts for nothing
    assert Folders(tmp_path).scan("val").files == IMAGES


def shard(root, name, members):
    """An archive of files by name and content."""
    (root / "train").mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"train/{name}.tar", "w") as archive:
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return Tars(root, root / "cache")


def test_webdataset_shards_have_the_classes_of_their_labels(tmp_path):
    shard(tmp_path, "00000", {"0.png": "a", "0.cls": "10\n", "0.json": "{}", "1.png": "b", "1.cls": "2"})
    tars = shard(tmp_path, "00001", {"0.cls": "2", "0.jpg": "c", "dir.1/1.cls": "10", "dir.1/1.png": "d"})
    for _ in range(2):  # the second time from the cache
        split = tars.scan("train")
        assert split.classes == ("2", "10")
        assert split.files == ("10/00000/0.png", "10/00001/dir.1/1.png", "2/00000/1.png", "2/00001/0.jpg")
        assert split.left_out == {".json": 1}
    assert contents(tars, split) == ["a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"0.png": "a", "0.cls": "1", "1.png": "b"},
            r"00001\.tar is a WebDataset shard, but holds 1\.png without 1\.cls",
        ),
        ({"0.png": "a", "0.seg.png": "b", "0.cls": "1"}, "holds a second image of sample 0"),
        ({"0.png": "a", "0.cls": "1/2"}, r"holds 0\.cls, which is no class but '1/2'"),
        ({"0.png": "a"}, r"00000\.tar is a WebDataset shard, but .*00001\.tar has no \.cls files"),
    ],
)
def test_webdataset_shards_that_would_be_misread_are_refused(tmp_path, members, message):
    shard(tmp_path, "00000", {"0.png": "a", "0.cls": "1"})
    with pytest.raises(UserError, match=message):
        shard(tmp_path, "00001", members).scan("train")


def test_webdataset_shards_without_labels_are_no_classes(tmp_path):
    for number in range(2):
        tars = shard(tmp_path, f"0000{number}", {"0.jpg": "a", "0.json": "{}", "1.jpg": "b", "1.json": "{}"})
    with pytest.raises(UserError, match=r"a \.json file for each image, as WebDataset shards have, but no \.cls file"):
        tars.scan("train")


def test_leftovers_beside_archives_are_counted_too(tmp_path):
    for name in ("cat", "dog"):
        tars = tar_of(tmp_path, ["1.png", "._1.png"], f"train/{name}")
    write(tmp_path / "train", ["._cat.tar", ".DS_Store"])
    assert tars.scan("train").passed_over == 4
    assert tars.scan("train").per_class() == {"cat": 1, "dog": 1}


def test_links_of_an_archive_lead_to_their_images(tmp_path):
    links = [
        ("dog/hard.png", tarfile.LNKTYPE, "./cat/1.png"),
        ("dog/soft.png", tarfile.SYMTYPE, "../cat/1.png"),
        ("dog/chain.png", tarfile.SYMTYPE, "soft.png"),
        ("dog/blob.png", tarfile.SYMTYPE, "../../blobs/5f"),
    ]
    tars = tar_of(tmp_path, ["blobs/5f", "train/cat/1.png", *((f"train/{name}", *rest) for name, *rest in links[1:])])
    split = tars.scan("train")
    assert split.files == ("cat/1.png", "dog/blob.png", "dog/chain.png", "dog/soft.png")
    assert contents(tars, split) == ["train/cat/1.png", "blobs/5f", "train/cat/1.png", "train/cat/1.png"]
    hard = tar_of(tmp_path / "hard", ["cat/1.png", links[0], "cat/1.png"])  # the link is to the first of two
    assert contents(hard, hard.scan("train")) == ["cat/1.png", "cat/1.png"]
    assert len({place[1] for place in hard.open("train", ["cat/1.png", "dog/hard.png"], ["cat", "dog"]).places}) == 2


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("dog/2.png", tarfile.SYMTYPE, "../gone.png"), r"dog/2\.png as a link to \.\./gone\.png.*--dereference"),
        (("dog/2.png", tarfile.SYMTYPE, "2.png"), r"dog/2\.png as a link to 2\.png"),
        (("dog/2.png", tarfile.LNKTYPE, "gone.png"), r"dog/2\.png as a link to gone\.png"),
        (("dog", tarfile.SYMTYPE, "/data/dog"), "holds dog as a link to /data/dog"),
        (("dog", tarfile.SYMTYPE, "cat"), "holds dog as a link to cat"),
        (("dog/2.png", tarfile.FIFOTYPE, ""), r"dog/2\.png as a device, pipe"),
        (("dog/2.png", tarfile.CHRTYPE, ""), r"dog/2\.png as a device, pipe"),
        ("dog.tar.gz", r"dog\.tar\.gz, which is compressed"),
    ],
)
def test_what_an_archive_holds_without_bytes_of_its_own_is_named(tmp_path, member, message):
    with pytest.raises(UserError, match=message) as caught:
        tar_of(tmp_path, ["cat/1.png", "fox/1.png", member]).scan("train")
    assert "\n" not in str(caught.value)


def test_sparse_files_and_joined_archives_are_named(tmp_path):
    (tmp_path / "dog").mkdir()
    with (tmp_path / "dog/2.png").open("wb") as file:
        file.truncate(10**6)
    if os.system(f"tar --sparse -cf {tmp_path}/train.tar -C {tmp_path} dog") == 0:
        with pytest.raises(UserError, match=r"dog/2\.png as a sparse file"):
            Tars(tmp_path, tmp_path / "cache").scan("train")
    whole = tar_of(tmp_path, IMAGES)
    archive = tmp_path / "train.tar"
    archive.write_bytes(2 * archive.read_bytes())
    with pytest.raises(UserError, match="holds another archive after its end; join them with tar --concatenate"):
        whole.scan("train")


@pytest.mark.parametrize("name", ["train.tar.gz", "train.tgz", "train.zip", "train.tar.zst", "train/n01.tar.gz"])
def test_compressed_archives_are_named(tmp_path, name):
    write(tmp_path, [name])
    with pytest.raises(UserError, match=rf"holds {Path(name).name}, .*decompress it"):
        Tars(tmp_path, tmp_path / "cache").scan("train")
    if "/" not in name:
        with pytest.raises(UserError, match=f"is not a folder, but {name} is there; unpack it"):
            scan(tmp_path / "train")


def test_another_reader_is_proposed(tmp_path):
    tars = tar_of(tmp_path, IMAGES)
    with pytest.raises(UserError, match=r"train\.tar is there; set dataset\.reader=tar"):
        scan(tmp_path / "train")
    (tmp_path / "train.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(UserError, match=r"train\.tar is compressed \(gzip\)"):
        tars.scan("train")
    write(tmp_path / "val", IMAGES)
    with pytest.raises(UserError, match=r"set dataset\.reader=folder"):
        tars.scan("val")


ODD = ("Shot\u202f1", "\u3000", "می\u200cخواهم", "\U0001f469\u200d\U0001f52c", "a\u2028b")


def test_names_as_people_have_them_are_accepted(tmp_path):
    names = sorted(f"{name}/{name}.png" for name in ODD)
    split = scan(write(tmp_path / "folders", names))
    assert split.files == tuple(names)
    tars = tar_of(tmp_path, names)
    assert tars.scan("train") == split
    assert contents(tars, tars.scan("train")) == names  # the listing comes from the cache


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "a\x7fb", "a\udcffb"])
def test_controls_and_undecodable_names_are_refused(tmp_path, name):
    names = [f"{name}/1.png", "cat/1.png"]
    for listed in (lambda: scan(write(tmp_path / "folders", names)), lambda: tar_of(tmp_path, names).scan("train")):
        with pytest.raises(UserError, match="control or undecodable character") as caught:
            listed()
        assert str(caught.value).isprintable()


def test_names_that_look_alike_are_told_apart(tmp_path):
    train = scan(write(tmp_path / "train", ["caf\u00e9/1.png", "dog/1.png"]))
    val = scan(write(tmp_path / "val", ["cafe\u0301/1.png", "dog/1.png"]))
    with pytest.raises(UserError, match=r"'cafe\\u0301'.*'caf\\xe9'.*two Unicode forms: rename one"):
        check_splits(train, val, classes=2)
    with pytest.raises(UserError, match=r"'cat\\u200b'"):
        check_splits(
            scan(write(tmp_path / "a", ["cat/1.png"])), scan(write(tmp_path / "b", ["cat\u200b/1.png"])), classes=1
        )
    with pytest.raises(UserError, match="spells one class in two Unicode forms"):
        scan(write(tmp_path / "train", ["cafe\u0301/1.png"]))


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    tars = tar_of(tmp_path, IMAGES)
    write(tmp_path / "train", IMAGES)
    scandir = os.scandir
    monkeypatch.setattr(folders.os, "scandir", lambda path: refuse(path) if "cat" in str(path) else scandir(path))
    with pytest.raises(UserError, match=r"train/cat cannot be read \(Permission denied\); .*chmod -R u\+rX"):
        scan(tmp_path / "train")
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: refuse(path))
    with pytest.raises(UserError, match=r"train\.tar cannot be read \(Permission denied\)"):
        tars.scan("train")


def test_a_pipe_in_place_of_an_image_is_named(tmp_path):
    os.mkfifo(write(tmp_path, IMAGES) / "fox/4.png")
    with pytest.raises(UserError, match=r"fox/4\.png is a device, pipe or socket"):
        scan(tmp_path)


def test_a_killed_listing_process_is_one_line_and_none_is_needed(monkeypatch):
    with pytest.raises(UserError, match="a process that lists images was killed"):
        list(in_processes(os._exit, [1, 2], 2))

    def refuse(_):
        raise OSError(28, "No space left on device")  # as where /dev/shm is too small

    monkeypatch.setattr("stages.core.data.pool.ProcessPoolExecutor", refuse)
    assert list(in_processes(layout.is_image, ["a.png", "a.txt"], 2)) == [True, False]
