"""From the bytes of an image file to an RGB image."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.core.base.errors import UnreadableImageError

SIXTEEN_BITS_AS_32 = {"PNG", "PPM"}  # formats whose 16-bit greys Pillow reads as 32-bit pixels


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image to RGB, 8 bits per channel.

    As in timm, EXIF orientation is ignored and transparency is dropped. 16-bit greys are scaled to
    8 bits (Pillow's own conversion would clip them to white).

    Args:
        content: the whole file.
        name: what messages call it.

    Raises:
        UnreadableImageError: it is damaged, not an image, or has pixels of no known range; the text names it.
    """
    try:
        # Broken EXIF and palettes with transparency make Pillow warn, once per image and epoch.
        with warnings.catch_warnings(action="ignore", category=UserWarning), Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS_AS_32):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise ValueError("32-bit pixels of no known range; convert it to 8 bits")
            if image.mode == "RGB":
                image.load()
                return image  # `convert` would copy it
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost any exception on damaged bytes
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image format that Pillow knows" if unknown else " ".join(str(error).split()) or repr(error)
        raise UnreadableImageError(f"{name} cannot be read as an image ({reason}); replace or remove it") from None
