"""Datasets in tar archives, read in place: nothing is unpacked, and nothing is written to DATA_ROOT."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.base.files import write_text
from stages.core.data.image_list import ImageList
from stages.core.data.layout import (
    COMPRESSED,
    EXTENSIONS,
    LEFTOVER,
    cannot_read,
    in_class_folders,
    is_image,
    is_leftover,
    is_usable,
    kind,
    label_list,
    outside_classes,
    readable,
    stem,
)
from stages.core.data.members import list_archive
from stages.core.data.pool import in_processes
from stages.core.data.splits import Split, checked, in_label_order, labels
from stages.core.runtime.machine import cores

LISTING = 4  # the version of the cached listings' format
Place = tuple[int, int, int]  # of a file: the position of its archive, the offset there, the size in bytes


@dataclass(frozen=True)
class Tars:
    """Tar archives: ROOT/SPLIT.tar, or all of ROOT/SPLIT/*.tar, of class folders, one tar per class, or WebDataset's.

    The class of an image is its outermost folder, as of class folders (see `layout.in_class_folders`); a tar within a
    tar counts as a folder. Links are followed within their archive.

    Attributes:
        root: the folder of the archives.
        cache: where listings are kept, by path, size and time of the archives: to list an archive is to go
            through the whole of it.
    """

    root: Path
    cache: Path

    def scan(self, split: str) -> Split:
        """List the images of a split.

        Raises:
            UserError: there is no archive, or one is damaged, not of classes, or holds an image in a way that cannot
                be read in place.
        """
        with readable(self.root / split):
            archives, beside = self._archives(split)
            members, left_out = self._members(split, archives)
            statuses = [path.stat() for path in archives]
        files = tuple(sorted(members))
        classes = in_label_order(list({file.partition("/")[0] for file in files}))
        sizes = tuple(members[file][2] for file in files)
        inodes = np.array([(status.st_dev, status.st_ino) for status in statuses], dtype=np.uint64)
        place, names = str(self.root / split), tuple(map(str, archives))
        return checked(Split(tuple(classes), files, sizes, inodes, place, beside + left_out, names))

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read.

        Raises:
            UserError: an archive has changed since the list was made.
        """
        with readable(self.root / split):
            archives, _ = self._archives(split)
            members, _ = self._members(split, archives)
        missing = next((file for file in files if file not in members), None)
        if missing is not None:
            raise UserError(f"{self.root / split} holds no {missing}, but it is listed; run `dvc repro prepare`")
        places = [members[file] for file in files]
        return TarImages(self.root / split, files, labels(files, classes), archives, places)

    def _archives(self, split: str) -> tuple[list[Path], Counter[str]]:
        """The archives of a split, and what is beside them."""
        whole, folder = self.root / f"{split}.tar", self.root / split
        if whole.is_file():
            return [whole], Counter()
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        used = [path for path in inside if not is_leftover(path.name)]
        archives = [path for path in used if path.suffix.lower() == ".tar"]
        packed = [path.name for path in used if COMPRESSED.search(path.name)]
        if packed:
            raise _compressed(folder, packed)
        if archives:
            others = [path for path in used if path not in archives]
            image = next((path for path in others if is_image(path.name)), None)
            if image is not None:
                raise outside_classes(f"{image} is")
            folders = [path.name for path in others if path.is_dir()]
            packed_too = {stem(path.name) for path in archives}
            if not packed_too.issuperset(folders):
                raise UserError(
                    f"{folder} holds the folders {', '.join(folders[:8])} beside tar archives; pack or move them"
                )
            left_out = Counter("folder" if path.name in folders else kind(path.name) for path in others)
            return archives, left_out + Counter({LEFTOVER: len(inside) - len(used)})
        beside = sorted(self.root.iterdir()) if self.root.is_dir() else []
        packed = [path.name for path in beside if path.name.startswith(f"{split}.") and COMPRESSED.search(path.name)]
        if packed:
            raise _compressed(self.root, packed)
        if any(path.is_dir() for path in used):
            raise UserError(f"{folder} holds folders and no tar archive; set dataset.reader=folder")
        present = ", ".join(path.name for path in beside[:8]) or "nothing"
        raise UserError(
            f"{self.root} holds neither {split}.tar nor a folder {split} of tar archives (it holds {present}); "
            f"set dataset.train_split and dataset.val_split to match"
        )

    def _members(self, split: str, archives: list[Path]) -> tuple[dict[str, Place], Counter[str]]:
        """Where each image is, by CLASS/…/FILE, and what was left out; from the cache while it holds."""
        label_file = label_list(self.root / split)
        read = [*archives, *([label_file] if label_file else [])]
        known = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in read]
        paths = str([str(path.resolve()) for path in archives])
        listing = self.cache / f"{hashlib.sha256(paths.encode(errors='surrogateescape')).hexdigest()[:16]}.json"
        with suppress(OSError, ValueError):  # not there, or cut off
            version, archived, members, left_out = json.loads(listing.read_text("utf-8"))
            if (version, archived) == (LISTING, known):
                return {name: tuple(place) for name, place in members.items()}, Counter(left_out)
        members, left_out = self._list(split, archives, label_file)
        write_text(listing, json.dumps([LISTING, known, members, left_out]))
        return members, left_out

    def _list(self, split: str, archives: list[Path], label_file: Path | None) -> tuple[dict[str, Place], Counter[str]]:
        """Go through archives, several at a time, with progress."""
        size_gb = sum(path.stat().st_size for path in archives) / 1e9
        print(f"listing {archives[0]}{', …' if len(archives) > 1 else ''} ({size_gb:.1f} GB), once", file=sys.stderr)
        whole = archives == [self.root / f"{split}.tar"]
        images: list[tuple[str, tuple[str, ...]]] = []
        places: list[Place] = []
        left_out: Counter[str] = Counter()
        shards: list[Path] = []
        listed = in_processes(list_archive, archives, min(cores(), len(archives)))
        progress = tqdm(listed, total=len(archives), unit="archive", disable=None)
        for number, (archive, listing) in enumerate(zip(archives, progress, strict=True)):
            for path, (offset, size) in listing.images.items():
                images.append(("" if whole else stem(archive.name), path))
                places.append((number, offset, size))
            left_out.update(listing.left_out)
            shards.extend([archive] if listing.shard else [])
        if not images:
            raise UserError(f"{archives[0]} holds no image ({', '.join(sorted(EXTENSIONS))})")
        _check_shards(archives, shards, images, left_out)
        members: dict[str, Place] = {}
        if shards:
            named = ["/".join(path) for _, path in images]
        else:
            named = in_class_folders(images, str(archives[0]), self.root / split, label_file)
        for name, place in zip(named, places, strict=True):
            archive = archives[place[0]]
            if not is_usable(name):
                raise UserError(f"{archive} holds {name!r}, with a control or undecodable character; rename it")
            if name in members:
                raise UserError(f"{archive} holds a second {name}; rename one")
            members[name] = place
        return members, left_out


def _check_shards(
    archives: list[Path], shards: list[Path], images: list[tuple[str, tuple[str, ...]]], left_out: Counter[str]
) -> None:
    """Refuse WebDataset shards whose images have no class, which would pass for archives of one class each."""
    if shards and len(shards) < len(archives):
        plain = next(archive for archive in archives if archive not in shards)
        raise UserError(f"{shards[0]} is a WebDataset shard, but {plain} has no .cls files; pack all archives alike")
    flat = len(archives) > 1 and all(len(path) == 1 for _, path in images)
    if flat and not shards and left_out[".json"] == len(images):
        raise UserError(
            f"{archives[0]} has a .json file for each image, as WebDataset shards have, but no .cls file of its class; "
            "pack shards with KEY.cls beside KEY.jpg, or archives of one class each without .json files"
        )


def holds_archives(root: Path, split: str) -> bool:
    """Whether a split is ROOT/SPLIT.tar or a folder of tar archives, and no folder of anything else."""
    folder = root / split
    with readable(folder):
        if folder.is_dir():
            return any(path.suffix.lower() == ".tar" for path in folder.iterdir())
        return (root / f"{split}.tar").is_file()


def _compressed(folder: Path, names: Sequence[str]) -> UserError:
    """The error for archives that cannot be read at any offset."""
    return UserError(
        f"{folder} holds {', '.join(names[:8])}, and images are read out of uncompressed tar archives; decompress it "
        "to .tar (gunzip, unzstd, …), or unpack it to class folders and set dataset.reader=folder"
    )


@dataclass(frozen=True)
class TarImages(ImageList):
    """Images in archives, opened anew for each read: safe in any number of processes, however they start."""

    archives: list[Path]
    places: list[Place]

    def content(self, index: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            UserError: its archive cannot be read.
        """
        archive, offset, size = self.places[index]
        try:
            with self.archives[archive].open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise cannot_read(self.archives[archive], error) from None
