import io
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.data.decoding import brightest, decode
from stages.core.data.image_list import ImageList, check_pixels
from stages.core.data.layout import FORMATS, is_image

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


TWELVE = np.array([0, 1, 15, 16, 1000, 2048, 4094, 4095])  # 12-bit values; their high 8 bits are the greys
HIGH = [0, 0, 0, 1, 62, 128, 255, 255]


def tiff(values, bits, *, order="<", photometric=1, channels=1, packed=False, **tags):
    """A TIFF of one row (TIFF 6.0, page 13): `values` of `bits` each; tags by number, of 16-bit values."""
    if bits == 12:
        binary = "".join(f"{value:012b}" for value in values)
        data = int(binary, 2).to_bytes(len(binary) // 8, "big")
    else:
        data = np.asarray(values).astype(f"{order}u{bits // 8}").tobytes()
    data = zlib.compress(data) if packed else data
    data += bytes(len(data) % 2)
    width = len(values) // channels
    entries = {256: [width], 257: [1], 258: [bits] * channels, 259: [8 if packed else 1], 262: [photometric], 273: [8]}
    entries |= {277: [channels], 278: [1], 279: [len(data)], **{int(name[1:]): value for name, value in tags.items()}}
    end = 8 + len(data) + 2 + 12 * len(entries) + 4
    directory, beyond = struct.pack(f"{order}H", len(entries)), b""
    for tag in sorted(entries):
        held = struct.pack(f"{order}{len(entries[tag])}H", *entries[tag])
        if len(held) > 4:
            held, beyond = struct.pack(f"{order}L", end + len(beyond)), beyond + held
        directory += struct.pack(f"{order}HHL", tag, 3, len(entries[tag])) + held.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}L", 8 + len(data)) + data + directory + bytes(4) + beyond


def png(values, *, channels):
    """A 16-bit PNG of one row."""
    chunks = {b"IHDR": struct.pack(">LLBBBBB", len(values) // channels, 1, 16, {1: 0, 2: 4, 3: 2}[channels], 0, 0, 0)}
    chunks[b"IDAT"] = zlib.compress(b"\0" + np.asarray(values).astype(">u2").tobytes())
    chunks[b"IEND"] = b""
    parts = (struct.pack(">L", len(c)) + n + c + struct.pack(">L", zlib.crc32(n + c)) for n, c in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    "content",
    [
        tiff(TWELVE, 12),
        tiff(TWELVE, 12, packed=True),
        tiff(TWELVE, 16, t341=[4095]),
        tiff(TWELVE, 16, t281=[4095], packed=True),
        tiff(TWELVE, 16, t281=[4095], order=">"),
        tiff(TWELVE * 16, 16),
        tiff(TWELVE * 16, 16, t281=[61234]),  # no more than the brightest of its pixels
        b"P5 8 1 4095\n" + TWELVE.astype(">u2").tobytes(),
    ],
)
def test_greys_of_twelve_bits_are_scaled_by_what_the_file_says(content):
    found = pixels(content)[0, :, 1]
    assert np.abs(found - np.array(HIGH)).max() <= int(content[:2] == b"P5")  # Pillow spreads these over 16 bits
    assert brightest(content, "image") == 255


@pytest.mark.parametrize("packed", [True, False])
def test_white_may_be_zero_in_sixteen_bits_too(packed):
    eight = pixels(tiff(np.array(HIGH), 8, photometric=0, packed=packed))
    np.testing.assert_array_equal(pixels(tiff(TWELVE * 16, 16, photometric=0, packed=packed)), eight)
    np.testing.assert_array_equal(eight[0, :, 0], 255 - np.array(HIGH))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(TWELVE * 16, 16, t339=[2]), "signed or 32-bit pixels"),
        (tiff(np.array(HIGH), 8, t339=[2]), "signed or 32-bit pixels"),
        (b"Pf 8 1 -1.0\n" + TWELVE.astype("<f4").tobytes(), "signed or 32-bit pixels"),
        (tiff(TWELVE.repeat(3), 16, photometric=2, channels=3, t341=[4095] * 3), "colours of 16 bits that end at 4095"),
        (tiff(np.tile(TWELVE, 3), 16, photometric=2, channels=3, t284=[2], t273=[8, 24, 40]), "planes of 16 bits"),
        (tiff(TWELVE * 16, 16, t281=[4095]), "a value of 65520, though it says that its values end at 4095"),
    ],
)
def test_pixels_that_would_be_misread_are_refused(content, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content, "image")


def test_colours_and_transparency_of_many_kinds(photo):
    array = np.asarray(photo)
    grey = Image.fromarray(array[:, :, 0])
    alpha = Image.fromarray(array[:, :, 1])
    np.testing.assert_array_equal(pixels(encoded(Image.merge("LA", (grey, alpha)), "PNG"))[:, :, 2], array[:, :, 0])
    np.testing.assert_array_equal(pixels(encoded(photo.convert("RGBA"), "TIFF")), array)
    cyan, black = np.full((4, 4), 255, np.uint8), np.full((4, 4), 51, np.uint8)
    cmyk = Image.merge("CMYK", [Image.fromarray(part) for part in (cyan, 0 * cyan, 0 * cyan, black)])
    assert pixels(encoded(cmyk, "TIFF"))[0, 0].tolist() == [0, 204, 204]
    wide = np.asarray(TWELVE * 16).repeat(3)
    for content in (png(wide, channels=3), tiff(wide, 16, photometric=2, channels=3)):
        assert pixels(content)[0, :, 2].tolist() == HIGH
    assert pixels(png(np.asarray(TWELVE * 16).repeat(2), channels=2))[0, :, 2].tolist() == HIGH


@pytest.mark.parametrize("form", FORMATS)
def test_every_suffix_that_is_listed_is_decoded(form):
    for suffix in FORMATS[form]:
        assert is_image(f"a{suffix.upper()}") and Image.registered_extensions()[suffix] == form
    found = pixels(encoded(Image.new("RGB", (8, 8), "blue"), form))
    assert np.abs(found[3, 3].astype(int) - [0, 0, 255]).max() <= 8


def test_no_program_is_run(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Ghostscript would be run")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    content = encoded(Image.new("RGB", (8, 8), "blue"), "EPS")
    with pytest.raises(UnreadableImageError, match=r"not an image format that is read"):
        decode(content, "image.png")


def listed(folder, contents):
    for number, content in enumerate(contents):
        (folder / f"{number}.png").write_bytes(content)
    return ImageList(folder, [f"{number}.png" for number in range(len(contents))], [0] * len(contents))


@pytest.mark.parametrize("make", [lambda v: png(v, channels=1), lambda v: png(v.repeat(3), channels=3)])
def test_twelve_bits_that_no_file_tells_are_refused_where_all_images_have_them(tmp_path, make):
    dark, whole = make(TWELVE), make(TWELVE * 16)
    with pytest.raises(UserError, match=r"0\.png: none of the 2 images of 16 bits .* end at 15 of 255"):
        check_pixels(listed(tmp_path, [dark, dark]), skip=False)
    assert check_pixels(listed(tmp_path, [whole, dark]), skip=False) == [str(tmp_path / "1.png")]
    assert check_pixels(listed(tmp_path, [whole, whole]), skip=False) == []


def test_dark_images_of_eight_bits_are_only_opened(tmp_path, monkeypatch):
    images = listed(tmp_path, [encoded(Image.new(mode, (8, 8), 1), "PNG") for mode in ("L", "RGB", "1", "P")])
    monkeypatch.setattr("stages.core.data.decoding._in_8_bits", None)
    assert check_pixels(images, skip=False) == []
    images = listed(tmp_path, [b"no image"])
    assert check_pixels(images, skip=True) == []
    with pytest.raises(UnreadableImageError, match=r"0\.png cannot be read"):
        check_pixels(images, skip=False)


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
