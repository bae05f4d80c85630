import io
import warnings

import numpy as np
import pytest
from PIL import Image

from stages.core.base.errors import UnreadableImageError
from stages.core.data.decoding import decode

GREYS = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 257·v is the 16-bit value of grey v


def encoded(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def pixels(content):
    image = decode(content, "image")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def photo(rng):
    return Image.fromarray(rng.integers(0, 256, size=(37, 5, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings(action="error"):
        yield


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_keep_their_pixels(photo, form):
    np.testing.assert_array_equal(pixels(encoded(photo, form)), np.asarray(photo))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (501, 7)])
def test_jpegs_of_odd_sizes(size):
    found = pixels(encoded(Image.new("RGB", size, (200, 100, 50)), "JPEG"))
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found - np.array([200.0, 100.0, 50.0])).max() <= 3


def test_greys_become_equal_channels(photo):
    grey = photo.convert("L")
    np.testing.assert_array_equal(pixels(encoded(grey, "PNG")), np.asarray(grey)[:, :, None].repeat(3, 2))
    np.testing.assert_array_equal(
        pixels(encoded(photo.convert("1"), "PNG"))[:, :, 0], np.asarray(photo.convert("1")) * 255
    )


def test_cmyk_is_subtractive():
    found = pixels(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(found.astype(int) - [0, 255, 255]).max() <= 3


def test_transparency_is_dropped(photo):
    transparent = photo.copy()
    transparent.putalpha(7)
    np.testing.assert_array_equal(pixels(encoded(transparent, "PNG")), np.asarray(photo))


def test_palettes_with_transparency_give_their_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    for transparency in (0, bytes([0, 128])):
        assert pixels(encoded(image, "PNG", transparency=transparency)).tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form):
    found = pixels(encoded(Image.fromarray(GREYS), form))
    np.testing.assert_array_equal(found[:, :, 1].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(kind):
    with pytest.raises(UnreadableImageError, match="32-bit pixels of no known range"):
        decode(encoded(Image.fromarray(GREYS.astype(kind)), "TIFF"), "image.tif")


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12", b"junk"])
def test_broken_exif_is_passed_over(photo, exif):
    np.testing.assert_array_equal(pixels(encoded(photo, "JPEG", exif=exif)), pixels(encoded(photo, "JPEG")))


def test_orientation_is_left_alone_as_timm_does(photo):
    from timm.data.dataset import ImageDataset

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    content = encoded(photo, "JPEG", exif=exif)
    by_timm, _ = ImageDataset("", reader=[(io.BytesIO(content), 0)])[0]
    np.testing.assert_array_equal(pixels(content), np.asarray(by_timm))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_damaged_images_are_named_in_one_line(rng, form):
    whole = encoded(Image.fromarray(rng.integers(0, 256, size=(64, 64, 3), dtype=np.uint8)), form)
    for damaged in (b"", b"no image", whole[:20], whole[: len(whole) // 2], whole[:-200], whole[:4] + bytes(40)):
        with pytest.raises(UnreadableImageError, match=r"ant/000\.img cannot be read as an image") as caught:
            decode(damaged, "ant/000.img")
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)


def test_random_damage_gives_an_image_or_one_line(rng, photo):
    for form in ("PNG", "JPEG", "TIFF"):
        whole = np.frombuffer(encoded(photo, form), np.uint8)
        for _ in range(100):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), size=8)] = rng.integers(0, 256, size=8)
            try:
                assert decode(damaged.tobytes(), "image").mode == "RGB"
            except UnreadableImageError as error:
                assert str(error).startswith("image cannot be read")
