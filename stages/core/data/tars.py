"""Datasets in tar archives, read in place: nothing is unpacked, and nothing is written to DATA_ROOT."""

import hashlib
import json
import sys
from collections.abc import Sequence
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
    cannot_read,
    in_class_folders,
    is_leftover,
    is_usable,
    readable,
    stem,
)
from stages.core.data.members import list_archive
from stages.core.data.pool import in_processes
from stages.core.data.splits import Split, checked, in_label_order, labels, lines
from stages.core.runtime.machine import cores

LISTING = 2  # the version of the cached listings' format
Place = tuple[int, int, int]  # of a file: the position of its archive, the offset there, the size in bytes


@dataclass(frozen=True)
class Tars:
    """Tar archives: ROOT/SPLIT.tar, or all of ROOT/SPLIT/*.tar, of class folders or of one tar per class.

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
            members, passed_over = self._members(split, archives)
            statuses = [path.stat() for path in archives]
        files = tuple(sorted(members))
        classes = in_label_order(list({file.partition("/")[0] for file in files}))
        sizes = tuple(members[file][2] for file in files)
        inodes = np.array([(status.st_dev, status.st_ino) for status in statuses], dtype=np.uint64)
        return checked(Split(tuple(classes), files, sizes, inodes, str(self.root / split), beside + passed_over))

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

    def _archives(self, split: str) -> tuple[list[Path], int]:
        """The archives of a split, and how many leftovers are beside them."""
        whole, folder = self.root / f"{split}.tar", self.root / split
        if whole.is_file():
            return [whole], 0
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        used = [path for path in inside if not is_leftover(path.name)]
        archives = [path for path in used if path.suffix.lower() == ".tar"]
        packed = [path.name for path in used if COMPRESSED.search(path.name)]
        if packed:
            raise _compressed(folder, packed)
        if archives:
            return archives, len(inside) - len(used)
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

    def _members(self, split: str, archives: list[Path]) -> tuple[dict[str, Place], int]:
        """Where each image is, by CLASS/…/FILE, and how many leftovers there are; from the cache while it holds."""
        known = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
        paths = str([str(path.resolve()) for path in archives])
        listing = self.cache / f"{hashlib.sha256(paths.encode(errors='surrogateescape')).hexdigest()[:16]}.tsv"
        if listing.is_file():
            *entries, last = lines(listing)
            try:
                footer = json.loads(last)
            except ValueError:  # cut off
                footer = None
            if isinstance(footer, dict) and (footer.get("listing"), footer.get("archives")) == (LISTING, known):
                rows = (line.split("\t") for line in entries)
                places = {name: (int(archive), int(offset), int(size)) for name, archive, offset, size in rows}
                return places, footer["passed_over"]
        members, passed_over = self._list(split, archives)
        entries = ["\t".join(map(str, (name, *place))) for name, place in members.items()]
        footer = {"listing": LISTING, "archives": known, "passed_over": passed_over}
        write_text(listing, "\n".join([*entries, json.dumps(footer)]) + "\n")
        return members, passed_over

    def _list(self, split: str, archives: list[Path]) -> tuple[dict[str, Place], int]:
        """Go through archives, several at a time, with progress."""
        size_gb = sum(path.stat().st_size for path in archives) / 1e9
        print(f"listing {archives[0]}{', …' if len(archives) > 1 else ''} ({size_gb:.1f} GB), once", file=sys.stderr)
        whole = archives == [self.root / f"{split}.tar"]
        images: list[tuple[str, tuple[str, ...]]] = []
        places: list[Place] = []
        passed_over = 0
        listed = in_processes(list_archive, archives, min(cores(), len(archives)))
        progress = tqdm(listed, total=len(archives), unit="archive", disable=None)
        for number, (archive, (found, leftovers)) in enumerate(zip(archives, progress, strict=True)):
            for path, (offset, size) in found.items():
                images.append(("" if whole else stem(archive.name), path))
                places.append((number, offset, size))
            passed_over += leftovers
        if not images:
            raise UserError(f"{archives[0]} holds no image ({', '.join(sorted(EXTENSIONS))})")
        members: dict[str, Place] = {}
        for name, place in zip(in_class_folders(images, str(archives[0])), places, strict=True):
            archive = archives[place[0]]
            if not is_usable(name):
                raise UserError(f"{archive} holds {name!r}, with a control or undecodable character; rename it")
            if name in members:
                raise UserError(f"{archive} holds a second {name}; rename one")
            members[name] = place
        return members, passed_over


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
