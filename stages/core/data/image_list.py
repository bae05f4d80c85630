"""Images to read: paths or places in an archive, and labels."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stages.core.base.errors import UserError
from stages.core.data.decoding import decode
from stages.core.data.layout import cannot_read


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
