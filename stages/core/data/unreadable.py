"""Training in spite of images that cannot be decoded: each is replaced by the next readable one, and counted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from PIL import Image

from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.data.image_list import ImageList


@dataclass(frozen=True)
class SkippingImages(ImageList):
    """Images of which one that cannot be decoded is replaced by the next readable one, with that one's label.

    The replacement depends on the list alone. Each replaced file is noted in a journal that all loading
    processes append to, and that an interrupted run finds again when it goes on.

    Attributes:
        images: to be read.
        journal: the file of notes, a line each.
        known: positions that this process has found unreadable.
    """

    images: ImageList
    journal: Path
    known: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, images: ImageList, journal: Path, *, fresh: bool = False) -> Self:
        """`images`, noting in `journal`; `fresh` forgets the notes of an earlier run."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            journal.unlink(missing_ok=True)
        return cls(images.folder, images.files, images.labels, images, journal)

    def name(self, index: int) -> str:
        """What messages call an image."""
        return self.images.name(index)

    def content(self, index: int) -> bytes:
        """The bytes of an image's file, readable or not."""
        return self.images.content(index)

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """An image in RGB and its label: those of the first one from `index` on, the list taken as a ring.

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
                with self.journal.open("a", encoding="utf-8") as journal:
                    journal.write(f"{self.files[candidate]}\n")
        raise UserError(f"none of the {len(self.files)} images of {self.folder} can be decoded; check the dataset")

    def unreadable(self) -> list[str]:
        """The files that were replaced so far, by all processes, sorted."""
        if not self.journal.is_file():
            return []
        return sorted(set(self.journal.read_text(encoding="utf-8").splitlines()))
