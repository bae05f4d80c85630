"""Class-folder datasets: the embedded digits, their layout on disk, the manifest and the analysis sample.

A dataset is a folder ROOT/SPLIT/CLASS/…/IMAGE. Its manifest holds counts and digests, no absolute path,
no time and no order of a file system, so that it is equal on every machine that holds the same images.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.core.errors import UserError
from stages.core.files import atomic_folder

EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
LAYOUT = "ROOT/SPLIT/CLASS/IMAGE"


@dataclass(frozen=True)
class ImageList:
    """Images to load: paths relative to a folder, and their labels."""

    folder: Path
    files: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Split:
    """The images of one split, sorted by path.

    Attributes:
        classes: class names, sorted; a class's label is its position.
        files: paths relative to the split's folder, with forward slashes; the first part is the class.
        sizes: bytes of each file.
        inodes: (device, inode) of each file: what the paths lead to, links followed.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    inodes: frozenset[tuple[int, int]]

    def labels(self) -> list[int]:
        """The label of each file."""
        return labels(self.files, self.classes)

    def per_class(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels(), minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def labels(files: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The label of each file: the position of its first folder in `classes`."""
    position = {name: label for label, name in enumerate(classes)}
    return [position[file.split("/", 1)[0]] for file in files]


def _images(folder: Path, prefix: str, seen: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in seen:
                    raise UserError(f"{entry.path} links back to a folder above it; remove the link")
                yield from _images(Path(entry.path), name, seen | {here})
            elif PurePosixPath(entry.name).suffix.lower() in EXTENSIONS:
                try:
                    yield name, entry.stat()
                except FileNotFoundError:
                    raise UserError(f"{entry.path} is a link that leads nowhere; mend or remove it") from None


def scan(folder: Path) -> Split:
    """List the images of one split's folder, without opening any.

    Raises:
        UserError: the folder is missing or holds no class folder, a class has no image, a file is empty.
    """
    if not folder.is_dir():
        present = (
            sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        )
        hint = f"its parent holds {', '.join(present[:8])}" if present else f"the layout is {LAYOUT}"
        raise UserError(f"{folder} is no folder ({hint}); set dataset.train_split and dataset.val_split to match")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise UserError(f"{folder} holds no class folder; the layout is {LAYOUT}")
    found: list[tuple[str, os.stat_result]] = []
    for name in classes:
        images = list(_images(folder / name, name, frozenset()))
        if not images:
            raise UserError(
                f"{folder / name} holds no image ({', '.join(sorted(EXTENSIONS))}); remove the class or fill it"
            )
        found += images
    found.sort(key=lambda image: image[0])
    for name, status in found:
        if status.st_size == 0:
            raise UserError(f"{folder / name} is empty; replace or remove it")
        if not name.isprintable():
            raise UserError(f"{folder / name!r} has a control or undecodable character in its name; rename it")
    return Split(
        classes=tuple(classes),
        files=tuple(name for name, _ in found),
        sizes=tuple(status.st_size for _, status in found),
        inodes=frozenset((status.st_dev, status.st_ino) for _, status in found),
    )


def check_splits(train: Split, val: Split, *, classes: int) -> None:
    """Refuse splits that cannot be trained on and judged by.

    Raises:
        UserError: the splits share images or are copies of each other, their classes differ, or their
            number of classes is not `classes`.
    """
    if train.classes != val.classes:
        only = sorted(set(train.classes) ^ set(val.classes))
        raise UserError(f"train and validation have different classes: only one of them has {', '.join(only[:8])}")
    if len(train.classes) != classes:
        raise UserError(
            f"the dataset has {len(train.classes)} classes, dataset.classes says {classes}; set it to match"
        )
    shared = len(train.inodes & val.inodes)
    if shared:
        raise UserError(f"train and validation share {shared} files (the same file or linked); separate them")
    if (train.files, train.sizes) == (val.files, val.sizes):
        raise UserError("train and validation hold files of the same names and sizes: one is a copy of the other")


def digest(split: Split, folder: Path | None = None) -> str:
    """SHA-256 over the sorted lines "path size" of a split; with `folder`, over the contents too.

    Sizes notice a file added, removed or replaced by one of another size without reading any image,
    which is what a dataset of a million files allows.
    """
    total = hashlib.sha256()
    for name, size in zip(split.files, split.sizes, strict=True):
        total.update(f"{name} {size}\n".encode())
        if folder is not None:
            total.update((folder / name).read_bytes())
    return total.hexdigest()


def describe(split: Split, folder: Path | None = None) -> dict[str, Any]:
    """A split's entry in the manifest: images, bytes, fewest and most images of a class, digest."""
    counts = split.per_class().values()
    return {
        "images": len(split.files),
        "bytes": sum(split.sizes),
        "images_per_class": {"min": min(counts), "max": max(counts)},
        "digest_of": "paths and sizes" if folder is None else "paths, sizes and contents",
        "sha256": digest(split, folder),
    }


def analysis_sample(split: Split, images_per_class: int) -> list[str]:
    """The first `images_per_class` images of each class, by file name (the paper takes one).

    Raises:
        UserError: a class has fewer images.
    """
    taken: dict[str, list[str]] = {name: [] for name in split.classes}
    for file in split.files:
        of_class = taken[file.split("/", 1)[0]]
        if len(of_class) < images_per_class:
            of_class.append(file)
    for name, files in taken.items():
        if len(files) < images_per_class:
            raise UserError(
                f"class {name} has {len(files)} validation images, fewer than analysis.images_per_class "
                f"{images_per_class}; lower it"
            )
    return [file for files in taken.values() for file in files]


def read_index(folder: Path, index: Path, classes: Sequence[str]) -> ImageList:
    """The images that an index file lists, one path relative to `folder` a line.

    Raises:
        UserError: the index is missing.
    """
    try:
        files = index.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{index} is missing; run `dvc repro prepare` to make it") from None
    return ImageList(folder, files, labels(files, classes))


def export_digits(folder: Path, *, train_split: str, val_split: str, val_images: int, seed: int) -> None:
    """Write scikit-learn's handwritten digits (1,797 8×8 scans) as PNG class folders, split by class.

    The scans' 17 grey levels are spread over 0 to 255. PNGs are stored uncompressed, so that their bytes do
    not depend on a compressor's version.

    Raises:
        UserError: `val_images` leaves too few images for one of the splits.
    """
    from sklearn.datasets import load_digits  # takes a second: only when there is something to export
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    try:
        train, val = train_test_split(
            np.arange(len(grey)), test_size=val_images, stratify=digits.target, random_state=seed
        )
    except ValueError as error:
        raise UserError(f"dataset.val_images {val_images}: {error}") from None
    with atomic_folder(folder) as temporary:
        for name, members in ((train_split, train), (val_split, val)):
            for index in members.tolist():
                target = temporary / name / str(digits.target[index]) / f"{index:04d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(grey[index]).save(target, compress_level=0)


def read_image(path: Path) -> Image.Image:
    """Decode one image to RGB.

    Raises:
        UserError: the file is missing, truncated or no image; the text names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path} is missing, but the manifest lists it; run `dvc repro prepare`") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); replace or remove it") from None
