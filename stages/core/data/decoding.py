"""From the bytes of an image file to an RGB image."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.core.base.errors import UnreadableImageError
from stages.core.data.layout import FORMATS

FROM_16_BITS = {"PNG", "PPM"}  # formats whose 16-bit greys Pillow may read as 32-bit pixels
# TIFF's fields (TIFF 6.0).
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE, PLANAR, SAMPLE_FORMAT, SMAX_SAMPLE_VALUE = 258, 262, 281, 284, 339, 341
WHITE_IS_ZERO, SEPARATE, SIGNED = 0, 2, 2


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image to RGB, 8 bits per channel; of a file of several images the first.

    As in timm, EXIF orientation is ignored and transparency is dropped. Of more than 8 bits the high ones are kept, by
    the depth that the file says (Pillow's own conversion of 16-bit greys would clip them to white).

    Args:
        content: the whole file.
        name: what messages call it.

    Raises:
        UnreadableImageError: it is damaged, not an image, or has pixels of no known range; the text names it.
    """
    with _opened(content, name) as image:
        return _in_8_bits(image)


def brightest(content: bytes, name: str) -> int | None:
    """The largest value of an image of more than 8 bits a channel, as `decode` gives it; of another None, undecoded.

    Raises:
        UnreadableImageError: as `decode`, as far as the header tells.
    """
    with _opened(content, name) as image:
        return None if _white(image) is None else int(np.asarray(_in_8_bits(image)).max())


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    try:
        # Broken EXIF and palettes with transparency make Pillow warn, once per image and epoch.
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),
            Image.open(io.BytesIO(content), formats=[*FORMATS]) as image,
        ):
            yield image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost any exception on damaged bytes
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image format that is read" if unknown else " ".join(str(error).split()) or repr(error)
        raise UnreadableImageError(f"{name} cannot be read as an image ({reason}); replace or remove it") from None


def _white(image: Image.Image) -> int | None:
    """The largest value that an image of more than 8 bits a channel may hold, None for other images.

    A TIFF of 16 bits may say a smaller one, by its maximum; only one of whole bits (4095) is taken for its range, since
    others are statistics of that image. (PNG's sBIT says how many of the high bits are significant: they stay high.)

    Raises:
        ValueError: the range is not known, or Pillow would misread the pixels.
    """
    tags = getattr(image, "tag_v2", {})  # of TIFF
    unknown = image.mode == "F" or (image.mode == "I" and image.format not in FROM_16_BITS)
    if unknown or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("signed or 32-bit pixels of no known range; convert it to 8 bits")
    greys = image.mode.startswith("I")
    if not greys and not re.search(r";16|65535", str(getattr(image, "tile", ""))):
        if tags.get(PLANAR) == SEPARATE and max(tags.get(BITS_PER_SAMPLE, (8,))) > 8:
            raise ValueError("uncompressed planes of 16 bits, which Pillow misreads; convert it to 8 bits")
        return None
    white = int(2 ** min(tags.get(BITS_PER_SAMPLE, (16,))) - 1)
    for tag in (SMAX_SAMPLE_VALUE, MAX_SAMPLE_VALUE):
        value = int(np.max(tags.get(tag, white)))
        white = value if 255 < value < white and not value & (value + 1) else white
    if not greys and white < 65535:
        raise ValueError(f"colours of 16 bits that end at {white}; scale them, or convert it to 8 bits")
    return white


def _in_8_bits(image: Image.Image) -> Image.Image:
    white = _white(image)
    if image.mode == "RGB":
        image.load()
        return image  # `convert` would copy it
    if white is None or not image.mode.startswith("I"):
        return image.convert("RGB")
    values = np.asarray(image).astype(np.uint32)
    if values.max() > white:
        raise ValueError(f"a value of {values.max()}, though it says that its values end at {white}")
    grey = (values * 256 // (white + 1)).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts such images of 8 bits alone
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB")
