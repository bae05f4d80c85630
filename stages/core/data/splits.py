"""Datasets as lists of images: splits and what must hold of them, the manifest and the analysis sample.

A dataset is a folder ROOT/SPLIT/CLASS/…/IMAGE, or what a reader presents as one. Its manifest holds counts and
digests, no absolute path, no time and no order of a file system, so that it is equal on every machine that holds
the same files.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.base.errors import UserError
from stages.core.base.files import names_digest
from stages.core.data.image_list import ImageList, spread
from stages.core.data.layout import LEFTOVER, is_usable, spelled, twins

NAMED_AT_MOST = 3  # files in one message


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        classes: class names in the order of timm's readers; a class's label is its position.
        files: paths relative to the split's folder, with forward slashes, sorted; the first part is the class.
        sizes: bytes of each file.
        inodes: device and inode of each file, [files, 2], links followed; of archives, theirs.
        place: what messages call the split.
        left_out: how many files are no part of it, by suffix, and leftovers of file managers and tools, each outermost
            file or folder counted once.
        archives: what `inodes` are of, if not of the files.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    inodes: np.ndarray = field(compare=False)
    place: str = field(compare=False, default="the split")
    left_out: Mapping[str, int] = field(default_factory=Counter)
    archives: tuple[str, ...] = field(compare=False, default=())

    @property
    def passed_over(self) -> int:
        """How many leftovers were left out."""
        return self.left_out.get(LEFTOVER, 0)

    def labels(self) -> list[int]:
        """The label of each file."""
        return labels(self.files, self.classes)

    def per_class(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels(), minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def in_label_order(classes: Sequence[str]) -> list[str]:
    """Class names as timm's readers sort them: numbers by value, the rest without regard to case."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", name.lower())
        return [int(part) if part.isdecimal() else part for part in parts], name

    return sorted(classes, key=key)


def labels(files: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The label of each file: the position of its first folder in `classes`."""
    position = {name: label for label, name in enumerate(classes)}
    return [position[file.partition("/")[0]] for file in files]


def checked(split: Split) -> Split:
    """Return `split`.

    Raises:
        UserError: a name holds control or undecodable characters, two images have one name, or two classes names that
            differ in their Unicode form only.
    """
    for name in split.files:
        if not is_usable(name):
            raise UserError(f"{split.place}/{name!r} has a control or undecodable character in its name; rename it")
    for name, following in pairwise(split.files):
        if name == following:
            raise UserError(f"{split.place} holds two images called {name}; rename one")
    alike = twins(split.classes)
    if alike:
        raise UserError(f"{split.place} spells one class in two Unicode forms: {spelled(alike)}; move one to the other")
    return split


def check_sizes(split: Split) -> None:
    """Refuse a split with an empty file.

    Raises:
        UserError: the text names the first one.
    """
    if 0 in split.sizes:
        name = split.files[split.sizes.index(0)]
        raise UserError(f"{split.place}/{name} is empty, and cannot be read as an image; replace or remove it")


def check_classes(split: Split, *, classes: int) -> None:
    """Refuse a split whose number of classes is not `classes`.

    Raises:
        UserError: the text says both numbers, and what was left out of the split.
    """
    if len(split.classes) != classes:
        out = f" (left out of {split.place}: {left_out_text(split.left_out)})" if split.left_out else ""
        raise UserError(
            f"the dataset has {len(split.classes)} classes{out}, dataset.classes says {classes}; set it to match"
        )


def check_splits(train: Split, val: Split, *, classes: int) -> None:
    """Refuse splits that cannot be trained on and judged by.

    Raises:
        UserError: the splits share files, their classes differ, or their number of classes is not `classes`.
    """
    if train.classes != val.classes:
        only = sorted(set(train.classes) ^ set(val.classes))
        alike = twins(only)
        mend = f"; {spelled(alike)} are one name in two Unicode forms: rename one (convmv --nfc)" if alike else ""
        flat = [split.place for split in (train, val) if len(split.classes) == 1]
        mend += f"; all images of {' and '.join(flat)} lie in one folder" if flat else ""
        raise UserError(f"train and validation have different classes: only one of them has {spelled(only[:8])}{mend}")
    check_classes(train, classes=classes)
    shared = _shared(train, val)
    if shared:
        pairs = ["; ".join(map(" and ".join, shared[:NAMED_AT_MOST])), *("…" for _ in shared[NAMED_AT_MOST:][:1])]
        raise UserError(
            f"train and validation share {len(shared)} files (the same file or linked): {'; '.join(pairs)}; separate "
            "them"
        )


def _shared(train: Split, val: Split) -> list[tuple[str, str]]:
    """The names in both splits of each file that they share, the first of several."""
    inodes = train.inodes[np.isin(train.inodes[:, 1], val.inodes[:, 1])]  # few: the rest need no dictionary
    wanted = {*map(tuple, inodes.tolist())}
    names = []
    for split in (train, val):
        named: dict[tuple[int, ...], str] = {}
        for position in np.flatnonzero(np.isin(split.inodes[:, 1], inodes[:, 1])).tolist():
            inode = tuple(split.inodes[position].tolist())
            file = split.archives[position] if split.archives else f"{split.place}/{split.files[position]}"
            if inode in wanted:
                named.setdefault(inode, file)
        names.append(named)
    return [(name, names[1][inode]) for inode, name in names[0].items() if inode in names[1]]


def check_copies(train: ImageList, val: ImageList) -> None:
    """Refuse splits that hold the same images, given that names and sizes agree; of very many, some are compared.

    Raises:
        UserError: their contents agree too.
    """
    if all(train.content(index) == val.content(index) for index in spread(len(train.files))):
        raise UserError("train and validation hold files of the same names and contents: one is a copy of the other")


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide a split, class by class at random, into what is left to train on and `share` of it, to validate on.

    Both keep the inodes of the whole.

    Raises:
        UserError: a class has too few images to be divided.
    """
    label_of = np.array(split.labels())
    held = np.zeros(len(label_of), dtype=bool)
    for label, name in enumerate(split.classes):
        own = np.flatnonzero(label_of == label)
        wanted = round(share * len(own))
        if not 0 < wanted < len(own):
            raise UserError(
                f"class {name} has {len(own)} training images, of which dataset.held_out {share:g} leaves none on one "
                "side; change it"
            )
        held[np.random.default_rng((seed, label)).permutation(own)[:wanted]] = True
    rest, part = (
        replace(
            split,
            files=tuple(split.files[index] for index in np.flatnonzero(chosen)),
            sizes=tuple(split.sizes[index] for index in np.flatnonzero(chosen)),
            left_out=Counter() if chosen is held else split.left_out,
        )
        for chosen in (~held, held)
    )
    return rest, part


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


def name_digests(split: Split) -> dict[str, str]:
    """Digests of a split's names, for its entry in the manifest: of all, sorted, and of each class's first image.

    The first images by file name, in the order of the labels, are the paper's analysis sample where the split is
    ImageNet's validation set, or holds this sample alone.
    """
    return {
        "names_sha256": names_digest(sorted(file.rpartition("/")[2] for file in split.files)),
        "first_of_class_sha256": names_digest(analysis_sample(split, 1)),
    }


def describe(split: Split, folder: Path | None = None) -> dict[str, Any]:
    """A split's entry in the manifest: images, bytes, fewest and most images of a class, digest.

    And what was left out, where there is any: leftovers, and other files by suffix.
    """
    counts = split.per_class().values()
    description = {
        "images": len(split.files),
        "bytes": sum(split.sizes),
        "images_per_class": {"min": min(counts), "max": max(counts)},
        "digest_of": "paths and sizes" if folder is None else "paths, sizes and contents",
        "sha256": digest(split, folder),
    }
    others = {kind: count for kind, count in sorted(split.left_out.items()) if kind != LEFTOVER}
    out = {"passed_over": split.passed_over, "left_out": others}
    return description | {key: value for key, value in out.items() if value}


def left_out_text(left_out: Mapping[str, int]) -> str:
    """What was left out, for a message: the most frequent kind first."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}{'s' * (count > 1 and kind[0] != '.')}" for kind, count in kinds)


def analysis_sample(split: Split, images_per_class: int) -> list[str]:
    """The first `images_per_class` images of each class, by file name (the paper takes one).

    Raises:
        UserError: a class has fewer images.
    """
    taken: dict[str, list[str]] = {name: [] for name in split.classes}
    for file in split.files:
        of_class = taken[file.partition("/")[0]]
        if len(of_class) < images_per_class:
            of_class.append(file)
    for name, files in taken.items():
        if len(files) < images_per_class:
            raise UserError(
                f"class {name} has {len(files)} validation images, fewer than analysis.images_per_class "
                f"{images_per_class}; lower it"
            )
    return [file for files in taken.values() for file in files]


def index_file(folder: Path, part: str) -> Path:
    """The list of the files of "train", "val" or "sample" (the analysis sample), one relative path a line.

    Args:
        folder: what `prepare` makes.
        part: "train", "val" or "sample".
    """
    return folder / f"{part}.txt"


def lines(file: Path) -> list[str]:
    """The lines of a file; unlike `str.splitlines`, the Unicode separators that a name may hold end none."""
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_index(index: Path) -> list[str]:
    """The files that an index lists, one a line.

    Raises:
        UserError: the index is missing.
    """
    try:
        return lines(index)
    except FileNotFoundError:
        raise UserError(f"{index} is missing; run `dvc repro prepare` to make it") from None
