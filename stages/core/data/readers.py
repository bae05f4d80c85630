"""Where a dataset's images are: class folders or tar archives (`stages.core.data.hub` has Hugging Face datasets).

Archives are listed by timm's own reader, then stand for the class folders CLASS/FILE that they hold. Nothing
is written to DATA_ROOT.
"""

import hashlib
import json
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.base.files import write_text
from stages.core.data.image_list import ImageList
from stages.core.data.listing import EXTENSIONS, scan
from stages.core.data.splits import Split, checked, in_label_order, labels
from stages.core.runtime.machine import cores

Place = tuple[int, int, int]  # of a file: the position of its archive, the offset there, the size in bytes


class Source(Protocol):
    """The images of a dataset, in some kind of storage."""

    def scan(self, split: str) -> Split:
        """List the images of a split."""

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""


@dataclass(frozen=True)
class Folders:
    """Class folders ROOT/SPLIT/CLASS/…/IMAGE."""

    root: Path

    def scan(self, split: str) -> Split:
        """List the images of a split; see `stages.core.data.listing.scan`."""
        return scan(self.root / split)

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""
        return ImageList(self.root / split, files, labels(files, classes))


@dataclass(frozen=True)
class Tars:
    """Tar archives: ROOT/SPLIT.tar, or all of ROOT/SPLIT/*.tar, of class folders or of one tar per class.

    The class of an image is its innermost folder, or the name of the tar that holds it without one, as timm
    has it. Links in an archive are passed over.

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
            UserError: there is no archive, or one is damaged or not of classes.
        """
        archives = self._archives(split)
        members = self._members(archives)
        files = tuple(sorted(members))
        classes = in_label_order(list({file.partition("/")[0] for file in files}))
        sizes = tuple(members[file][2] for file in files)
        statuses = [path.stat() for path in archives]
        inodes = np.array([(status.st_dev, status.st_ino) for status in statuses], dtype=np.uint64)
        return checked(Split(tuple(classes), files, sizes, inodes), str(self.root / split))

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read.

        Raises:
            UserError: an archive has changed since the list was made.
        """
        archives = self._archives(split)
        members = self._members(archives)
        missing = next((file for file in files if file not in members), None)
        if missing is not None:
            raise UserError(f"{self.root / split} holds no {missing}, but it is listed; run `dvc repro prepare`")
        places = [members[file] for file in files]
        return TarImages(self.root / split, files, labels(files, classes), archives, places)

    def _archives(self, split: str) -> list[Path]:
        whole = self.root / f"{split}.tar"
        archives = [whole] if whole.is_file() else sorted((self.root / split).glob("*.tar"))
        if not archives:
            raise UserError(
                f"{self.root} holds neither {split}.tar nor a folder {split} of tar archives; "
                f"set dataset.train_split and dataset.val_split to match"
            )
        return archives

    def _members(self, archives: list[Path]) -> dict[str, Place]:
        """Where each image is, by CLASS/FILE: from the cache if the archives are those that it knows."""
        known = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
        footer = json.dumps({"listing": 1, "archives": known})
        paths = str([str(path.resolve()) for path in archives])
        listing = self.cache / f"{hashlib.sha256(paths.encode()).hexdigest()[:16]}.tsv"
        if listing.is_file():
            *lines, last = listing.read_text(encoding="utf-8").splitlines() or [""]
            if last == footer:
                rows = (line.split("\t") for line in lines)
                return {name: (int(archive), int(offset), int(size)) for name, archive, offset, size in rows}
        members = _list_archives(archives)
        lines = ["\t".join(map(str, (name, *place))) for name, place in members.items()]
        write_text(listing, "\n".join([*lines, footer]) + "\n")
        return members


def _list_archives(archives: list[Path]) -> dict[str, Place]:
    """Go through archives, several at a time, with progress."""
    size_gb = sum(path.stat().st_size for path in archives) / 1e9
    print(f"listing {archives[0]}{', …' if len(archives) > 1 else ''} ({size_gb:.1f} GB), once", file=sys.stderr)
    members: dict[str, Place] = {}
    with ProcessPoolExecutor(min(cores(), len(archives))) as pool:
        listed = tqdm(pool.map(_list_archive, archives), total=len(archives), unit="archive", disable=None)
        for number, (archive, found) in enumerate(zip(archives, listed, strict=True)):
            for name, offset, size in found:
                if name in members:
                    raise UserError(f"{archive} holds a second {name}; rename one")
                members[name] = (number, offset, size)
    return members


def _list_archive(archive: Path) -> list[tuple[str, int, int]]:
    """Name (CLASS/FILE), offset and size in bytes of each image in an archive, tars within it included."""
    from timm.data.readers.reader_image_in_tar import extract_tarinfos  # takes seconds: only when there is need

    try:
        found, targets, class_to_idx, _ = extract_tarinfos(
            str(archive), cache_tarinfo=False, extensions=EXTENSIONS, sort=False
        )
    except tarfile.TarError as error:
        raise UserError(f"{archive} is no whole tar archive ({error}); replace it") from None
    except ValueError:  # nothing to unpack
        raise UserError(f"{archive} holds no image ({', '.join(sorted(EXTENSIONS))})") from None
    names = {label: name for name, label in class_to_idx.items()}
    images = {}
    for (member, _, nested), target in zip(found, targets.tolist(), strict=True):
        name = f"{names[target] or archive.stem}/{PurePosixPath(member.name).name}"
        if not name.isprintable():
            raise UserError(f"{archive} holds {name!r}, with a control or undecodable character; rename it")
        # Of members of one path the last counts, as it does for who unpacks the archive.
        path = (nested and nested.name, member.name)
        start = nested.offset_data if nested else 0
        images[path] = (name, start + member.offset_data, member.size)
    return list(images.values())


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
            raise UserError(f"{self.archives[archive]} cannot be read ({error.strerror})") from None
