"""What a reader of a dataset does, and the one of class folders (`tars` has archives, `hub` Hugging Face datasets)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stages.core.data.image_list import ImageList
from stages.core.data.layout import readable
from stages.core.data.listing import locate, scan
from stages.core.data.splits import Split, labels


class Source(Protocol):
    """The images of a dataset, in some kind of storage."""

    def scan(self, split: str) -> Split:
        """List the images of a split."""

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""


@dataclass(frozen=True)
class Folders:
    """Class folders ROOT/SPLIT/CLASS/…/IMAGE, or ROOT/SPLIT/IMAGE with a list of classes."""

    root: Path

    def scan(self, split: str) -> Split:
        """List the images of a split; see `stages.core.data.listing.scan`."""
        return scan(self.root / split)

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""
        folder = self.root / split
        if not folder.is_dir():
            return ImageList(folder, files, labels(files, classes))  # each image that is read is named as missing
        with readable(folder):
            place = locate(folder)
        paths = files if place.classes else [file.partition("/")[2] for file in files]
        return ImageList(place.folder, paths, labels(files, classes))
