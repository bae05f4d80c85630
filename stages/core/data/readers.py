"""What a reader of a dataset does, and the one of class folders (`tars` has archives, `hub` Hugging Face datasets)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stages.core.data.image_list import ImageList
from stages.core.data.listing import scan
from stages.core.data.splits import Split, labels


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
