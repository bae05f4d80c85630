"""Datasets of class folders: their images, listed without opening any, and read."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.data.image_list import ImageList
from stages.core.data.layout import (
    COMPRESSED,
    EXTENSIONS,
    LAYOUT,
    LEFTOVER,
    is_archive,
    is_image,
    is_leftover,
    kind,
    label_list,
    labelled,
    outside_classes,
    readable,
    unpacked,
    without_classes,
)
from stages.core.data.pool import in_processes
from stages.core.data.splits import Split, checked, in_label_order, labels, left_out_text
from stages.core.runtime.machine import cores

PARALLEL_FROM = 200  # class folders; fewer are listed sooner than processes start
File = tuple[str, int, int, int]  # name, size in bytes, device, inode
Listed = tuple[tuple[str, ...], tuple[int, ...], np.ndarray, Counter[str]]  # names, sizes, inodes, what is left out


def _collect(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], found: list[File], left_out: Counter[str]
) -> None:
    """Add the images in a folder, and in the folders in it, to `found`, and count the rest in `left_out`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if is_leftover(name):
                left_out[LEFTOVER] += 1
                continue
            if _is_folder(entry):
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    raise UserError(f"{entry.path} links back to a folder above it; remove the link")
                _collect(entry.path, f"{prefix}/{name}", above | {here}, found, left_out)
            elif is_image(name):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    raise _broken_link(entry.path) from None
                if not stat.S_ISREG(status.st_mode):
                    raise UserError(f"{entry.path} is a device, pipe or socket, not a file; remove it")
                found.append((f"{prefix}/{name}", status.st_size, status.st_dev, status.st_ino))
            else:
                left_out[kind(name)] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_dir():
            return True
    except PermissionError:
        raise
    except OSError:  # a link to itself
        raise _broken_link(entry.path) from None
    # A class may have been there. (Of images the caller asks for more.)
    if entry.is_symlink() and not is_image(entry.name) and not Path(entry.path).exists():
        raise _broken_link(entry.path)
    return False


def _broken_link(path: str) -> UserError:
    return UserError(f"{path} is a link that leads nowhere; mend or remove it")


def _images(folder: Path, name: str) -> Listed:
    """Names, sizes and inodes of the images of a class, sorted by name, and what was left out there.

    Of a folder without classes the class is "".
    """
    images: list[File] = []
    left_out: Counter[str] = Counter()
    with readable(folder / name):
        _collect(str(folder / name), name, frozenset(), images, left_out)
    if not images:
        held = f" but {left_out_text(left_out)}" if left_out else ""
        raise UserError(
            f"{folder / name} holds no image ({', '.join(sorted(EXTENSIONS))}){held}; remove the class or fill it"
        )
    images.sort()
    names, sizes, devices, inodes = zip(*images, strict=True)
    packed = np.array([devices, inodes], dtype=np.uint64).T  # to pass quickly between processes
    return names, sizes, packed, left_out


@dataclass(frozen=True)
class Place:
    """Where in a split's folder its images are.

    Attributes:
        folder: the one that holds the class folders, or images and no folder.
        classes: the names of the class folders; none where images lie flat.
        labels: the list of the classes of images that lie flat.
        left_out: what is beside the class folders and the folders above them.
    """

    folder: Path
    classes: tuple[str, ...]
    labels: Path | None
    left_out: Counter[str]


def locate(split: Path) -> Place:
    """Find the images in a split's folder; folders that all images share, as archives unpack them, are passed over.

    Raises:
        UserError: there are neither class folders nor a list of classes, or something beside the class folders may be a
            class of its own.
    """
    folder, label_file = split, label_list(split)
    left_out: Counter[str] = Counter()
    while True:
        folders, files = _inside(folder, left_out)
        images = [name for name in files if is_image(name)]
        others = [folder / name for name in files if not is_image(name)]
        left_out.update(kind(path.name) for path in others if path != label_file)
        if images and not folders:
            if label_file is None:
                raise without_classes(str(folder), split)
            return Place(folder, (), label_file, left_out)
        if not folders:
            packed = [path.name for path in others if is_archive(path.name)]
            hint = f"it holds {', '.join(packed[:8])}: unpack to {LAYOUT}" if packed else f"the layout is {LAYOUT}"
            if any(name.lower().endswith(".tar") for name in packed):
                hint = "it holds tar archives: set dataset.reader=tar"
            raise UserError(f"{folder} holds no class folder; {hint}")
        if images:
            raise outside_classes(f"{folder / images[0]} is")
        if len(folders) > 1:
            break
        inner, inside = _inside(folder / folders[0], Counter())
        flat = any(map(is_image, inside))
        if (flat and (inner or label_file is None)) or not (flat or inner):  # a class
            break
        folder /= folders[0]
    # Unpacked ones may be there still.
    done = {*folders, split.name}
    packed = [path.name for path in others if is_archive(path.name) and unpacked(path.name) not in done]
    if packed:
        raise UserError(
            f"{folder} holds {', '.join(packed[:8])} beside class folders; unpack it to a class folder, or move it away"
        )
    return Place(folder, tuple(folders), None, left_out)


def _inside(folder: Path, left_out: Counter[str]) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, without leftovers, which are counted."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_leftover(entry.name):
                left_out[LEFTOVER] += 1
            else:
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(folders), sorted(files)


def _missing(folder: Path) -> UserError:
    """The error for a split's folder that is not there, with what is there instead."""
    beside = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    archives = [path.name for path in beside if path.name.startswith(f"{folder.name}.")]
    if f"{folder.name}.tar" in archives:
        return UserError(f"{folder} is not a folder, but {folder.name}.tar is there; set dataset.reader=tar")
    packed = [name for name in archives if COMPRESSED.search(name)]
    if packed:
        return UserError(f"{folder} is not a folder, but {', '.join(packed)} is there; unpack it to {LAYOUT}")
    present = [path.name for path in beside if path.is_dir() and not is_leftover(path.name)]
    hint = f"its parent holds {', '.join(present[:8])}" if present else f"the layout is {LAYOUT}"
    return UserError(f"{folder} is not a folder ({hint}); set dataset.train_split and dataset.val_split to match")


def scan(folder: Path) -> Split:
    """List the images of one split's folder, without opening any; many classes in parallel, with progress.

    The class of an image is its outermost folder, but for folders that all share; what is left out is counted.

    Raises:
        UserError: the folder is missing, cannot be read or holds no classes (see `locate`), a class has no image, or an
            image is in no class.
    """
    with readable(folder):
        if not folder.is_dir():
            raise _missing(folder)
        place = locate(folder)
    classes = place.classes or ("",)
    left_out = place.left_out
    by_path = sorted(classes, key=lambda name: f"{name}/")  # so that the files come sorted too
    processes = cores() if len(classes) >= PARALLEL_FROM else 1
    # Processes: a file takes too little time for threads not to wait for each other.
    listed = in_processes(partial(_images, place.folder), by_path, processes, chunk=8)
    files: list[str] = []
    sizes: list[int] = []
    inodes: list[np.ndarray] = []
    for found in tqdm(listed, total=len(classes), desc=f"listing {folder.name}", unit="class", disable=None):
        files.extend(found[0])
        sizes.extend(found[1])
        inodes.append(found[2])
        left_out.update(found[3] if place.classes else ())  # else counted above
    every = np.concatenate(inodes)
    if place.labels is not None:
        files = labelled([file.removeprefix("/") for file in files], place.labels)
        order = sorted(range(len(files)), key=files.__getitem__)
        files, sizes, every = [files[index] for index in order], [sizes[index] for index in order], every[order]
        classes = (*{file.partition("/")[0] for file in files},)
    return checked(Split(tuple(in_label_order(classes)), tuple(files), tuple(sizes), every, str(folder), left_out))


@dataclass(frozen=True)
class Folders:
    """Class folders ROOT/SPLIT/CLASS/…/IMAGE, or ROOT/SPLIT/IMAGE with a list of classes."""

    root: Path

    def scan(self, split: str) -> Split:
        """List the images of a split; see `scan`."""
        return scan(self.root / split)

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""
        folder = self.root / split
        if not folder.is_dir():
            return ImageList(folder, files, labels(files, classes))  # each image that is read is named as missing
        with readable(folder):
            place = locate(folder)
        paths = files if place.classes else [file.partition("/")[2] for file in files]
        return ImageList(place.folder, paths, labels(files, classes))
