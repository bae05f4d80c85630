"""Training despite images that cannot be decoded: each is replaced by the next readable one, and counted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from PIL import Image

from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.data.image_list import ImageList
from stages.core.data.splits import lines


@dataclass(frozen=True)
class SkippingImages(ImageList):
    """Images in which one that cannot be decoded, an empty file included, is replaced by the next readable one.

    The replacement brings its own label, and depends on the list alone. Each replaced file is noted in a journal that
    all loading processes append to, and that an interrupted run reads again when it resumes. Runs that are trained on
    the same images at once have a journal each.

    Attributes:
        images: the list to read from.
        journals: the files that name the replaced images, one a line.
        known: positions that this process has found unreadable.
    """

    images: ImageList
    journals: tuple[Path, ...]
    known: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, images: ImageList, *journals: Path, fresh: bool = False) -> Self:
        """`images`, noting in each of `journals`; `fresh` forgets the notes of an earlier run."""
        for journal in journals:
            journal.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                journal.unlink(missing_ok=True)
        return cls(images.folder, images.files, images.labels, images, journals)

    def name(self, index: int) -> str:
        """What messages call an image."""
        return self.images.name(index)

    def content(self, index: int) -> bytes:
        """The bytes of an image's file, readable or not."""
        return self.images.content(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """The first readable image from `index` on, in RGB, and its label; after the last image comes the first.

        Raises:
            UserError: no image of the list can be decoded, or a file is missing.
        """
        for position in range(index, index + len(self.files)):
            candidate = position % len(self.files)
            if candidate in self.known:
                continue
            try:
                return self.images.sample(candidate)
            except UnreadableImageError:
                self.known.add(candidate)
                for journal in self.journals:
                    with journal.open("a", encoding="utf-8") as notes:
                        notes.write(f"{self.files[candidate]}\n")
        raise UserError(f"none of the {len(self.files)} images of {self.folder} can be decoded; check the dataset")

    def unreadable(self) -> list[str]:
        """The files that were replaced so far, by all processes, sorted."""
        return sorted({name for journal in self.journals if journal.is_file() for name in lines(journal)})
