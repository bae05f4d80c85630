"""The images of a dataset of class folders, listed without opening any."""

import os
import stat
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.data.layout import (
    COMPRESSED,
    EXTENSIONS,
    LAYOUT,
    is_image,
    is_leftover,
    outside_classes,
    readable,
)
from stages.core.data.pool import in_processes
from stages.core.data.splits import Split, checked, in_label_order
from stages.core.runtime.machine import cores

PARALLEL_FROM = 200  # class folders; fewer are listed sooner than processes start
File = tuple[str, int, int, int]  # name, size in bytes, device, inode
Listed = tuple[tuple[str, ...], tuple[int, ...], np.ndarray, int]  # names, sizes, inodes, leftovers passed over


def _collect(folder: str, prefix: str, above: frozenset[tuple[int, int]], found: list[File]) -> int:
    """Add the images in a folder, and in the folders in it, to `found`; return how many leftovers were passed over."""
    passed_over = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if is_leftover(name):
                passed_over += 1
                continue
            try:
                folder_like = entry.is_dir()
            except PermissionError:
                raise
            except OSError:  # a link to itself
                raise _broken_link(entry.path) from None
            if folder_like:
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    raise UserError(f"{entry.path} links back to a folder above it; remove the link")
                passed_over += _collect(entry.path, f"{prefix}/{name}", above | {here}, found)
            elif is_image(name):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    raise _broken_link(entry.path) from None
                if not stat.S_ISREG(status.st_mode):
                    raise UserError(f"{entry.path} is a device, pipe or socket, not a file; remove it")
                found.append((f"{prefix}/{name}", status.st_size, status.st_dev, status.st_ino))
    return passed_over


def _broken_link(path: str) -> UserError:
    return UserError(f"{path} is a link that leads nowhere; mend or remove it")


def _class_images(folder: Path, name: str) -> Listed:
    """Names, sizes and inodes of a class's images, sorted by name, and how many leftovers were passed over."""
    images: list[File] = []
    with readable(folder / name):
        passed_over = _collect(str(folder / name), name, frozenset(), images)
    if not images:
        raise UserError(
            f"{folder / name} holds no image ({', '.join(sorted(EXTENSIONS))}); remove the class or fill it"
        )
    images.sort()
    names, sizes, devices, inodes = zip(*images, strict=True)
    packed = np.array([devices, inodes], dtype=np.uint64).T  # to pass quickly between processes
    return names, sizes, packed, passed_over


def _class_folders(folder: Path) -> tuple[list[str], int]:
    """The names of a split's class folders, and how many leftovers are beside them."""
    classes, passed_over, outside = [], 0, None
    for path in folder.iterdir():
        if is_leftover(path.name):
            passed_over += 1
        elif path.is_dir():
            classes.append(path.name)
        elif is_image(path.name):
            outside = path
    if not classes:
        archives = any(path.suffix.lower() == ".tar" for path in folder.iterdir())
        hint = "it holds tar archives: set dataset.reader=tar" if archives else f"the layout is {LAYOUT}"
        raise UserError(f"{folder} holds no class folder; {hint}")
    if outside is not None:
        raise outside_classes(f"{outside} is")
    return classes, passed_over


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

    The class of an image is its outermost folder; leftovers of file managers and tools are passed over and counted.

    Raises:
        UserError: the folder is missing, cannot be read or holds no class folder, a class has no image, or an image is
            in no class.
    """
    with readable(folder):
        if not folder.is_dir():
            raise _missing(folder)
        classes, passed_over = _class_folders(folder)
    by_path = sorted(classes, key=lambda name: f"{name}/")  # so that the files come sorted too
    processes = cores() if len(classes) >= PARALLEL_FROM else 1
    # Processes: a file takes too little time for threads not to wait for each other.
    listed = in_processes(partial(_class_images, folder), by_path, processes, chunk=8)
    files: list[str] = []
    sizes: list[int] = []
    inodes: list[np.ndarray] = []
    for found in tqdm(listed, total=len(classes), desc=f"listing {folder.name}", unit="class", disable=None):
        files.extend(found[0])
        sizes.extend(found[1])
        inodes.append(found[2])
        passed_over += found[3]
    return checked(
        Split(
            tuple(in_label_order(classes)), tuple(files), tuple(sizes), np.concatenate(inodes), str(folder), passed_over
        )
    )
