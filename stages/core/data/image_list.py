"""Images to read: paths or places in an archive, and labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.data.decoding import brightest, decode
from stages.core.data.layout import cannot_read

SEEN_AT_MOST = 1000  # images of a split that are opened before training


@dataclass(frozen=True)
class ImageList:
    """Images to load: paths relative to a folder, and their labels."""

    folder: Path
    files: list[str]
    labels: list[int]

    def name(self, index: int) -> str:
        """What messages call an image."""
        return str(self.folder / self.files[index])

    def content(self, index: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            UserError: the file is missing or cannot be read.
        """
        try:
            return (self.folder / self.files[index]).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{self.name(index)} is missing, but listed; run `dvc repro prepare`") from None
        except OSError as error:
            raise cannot_read(self.name(index), error) from None

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """An image in RGB, and its label.

        Raises:
            UserError: the file is missing or cannot be read.
            UnreadableImageError: it cannot be decoded.
        """
        return decode(self.content(index), self.name(index)), self.labels[index]

    def unreadable(self) -> list[str]:
        """The files that were replaced because they cannot be decoded: none in a plain list."""
        return []


def spread(count: int) -> list[int]:
    """Positions in a list of `count` images, evenly spread."""
    return [int(position) for position in np.linspace(0, count - 1, min(count, SEEN_AT_MOST))]


def check_pixels(images: ImageList, *, skip: bool) -> list[str]:
    """Refuse images whose pixels would be misread, as far as some of them show: at most 1,000, evenly spread.

    Of all but those of more than 8 bits a channel only the header is looked at. Values of 12 bits in a file of 16 that
    does not say so make a dark image, and a single dark image may be one: so all of them decide.

    Args:
        images: one split.
        skip: whether to pass over those that cannot be read.

    Returns:
        The names of those that come out nearly black, where others do not: below 16 of 255, as 12 bits in 16 do.

    Raises:
        UserError: all images of more than 8 bits a channel stay in the lower half of their range.
        UnreadableImageError: an image cannot be read, or its pixels have no known range.
    """
    found: dict[str, int] = {}
    for index in spread(len(images.files)):
        try:
            value = brightest(images.content(index), images.name(index))
        except UnreadableImageError:
            if not skip:
                raise
            continue
        if value is not None:
            found[images.name(index)] = value
    if found and max(found.values()) < 128:
        first = next(iter(found))
        raise UserError(
            f"{first}: none of the {len(found)} images of 16 bits that were looked at uses the upper half of its range "
            f"(as 8 bits they end at {max(found.values())} of 255): their values seem to have fewer bits than their "
            "files say; scale them to the whole range, or convert them to 8 bits"
        )
    return [name for name, value in found.items() if value < 16]
