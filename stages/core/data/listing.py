"""The images of a dataset of class folders, listed without opening any."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.data.splits import Split, checked, in_label_order
from stages.core.runtime.machine import cores

EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
LAYOUT = "ROOT/SPLIT/CLASS/IMAGE"
PARALLEL_FROM = 200  # class folders; fewer are listed sooner than processes start
File = tuple[str, int, int, int]  # name, size in bytes, device, inode


def _collect(folder: str, prefix: str, above: frozenset[tuple[int, int]], found: list[File]) -> None:
    """Add the images in a folder, and in the folders in it, to `found`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            try:
                folder_like = entry.is_dir()
            except OSError:  # a link to itself
                raise UserError(f"{entry.path} is a link that leads nowhere; mend or remove it") from None
            if folder_like:
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    raise UserError(f"{entry.path} links back to a folder above it; remove the link")
                _collect(entry.path, f"{prefix}/{name}", above | {here}, found)
            elif os.path.splitext(name)[1].lower() in EXTENSIONS:  # noqa: PTH122  a tenth of pathlib's time
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    raise UserError(f"{entry.path} is a link that leads nowhere; mend or remove it") from None
                found.append((f"{prefix}/{name}", status.st_size, status.st_dev, status.st_ino))


def _class_images(folder: Path, name: str) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """Names, sizes and inodes of a class's images, sorted by name."""
    images: list[File] = []
    _collect(str(folder / name), name, frozenset(), images)
    if not images:
        raise UserError(
            f"{folder / name} holds no image ({', '.join(sorted(EXTENSIONS))}); remove the class or fill it"
        )
    images.sort()
    names, sizes, devices, inodes = zip(*images, strict=True)
    return names, sizes, np.array([devices, inodes], dtype=np.uint64).T  # packed, to pass quickly between processes


def scan(folder: Path) -> Split:
    """List the images of one split's folder, without opening any; many classes in parallel, with progress.

    Raises:
        UserError: the folder is missing or holds no class folder, a class has no image, a file is empty.
    """
    if not folder.is_dir():
        present = (
            sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        )
        hint = f"its parent holds {', '.join(present[:8])}" if present else f"the layout is {LAYOUT}"
        raise UserError(f"{folder} is no folder ({hint}); set dataset.train_split and dataset.val_split to match")
    classes = [path.name for path in folder.iterdir() if path.is_dir()]
    if not classes:
        raise UserError(f"{folder} holds no class folder; the layout is {LAYOUT}")
    by_path = sorted(classes, key=lambda name: f"{name}/")  # so that the files come sorted too
    listed = partial(_class_images, folder)
    files: list[str] = []
    sizes: list[int] = []
    inodes: list[np.ndarray] = []
    with tqdm(total=len(classes), desc=f"listing {folder.name}", unit="class", disable=None) as progress:

        def take(found: tuple[Sequence[str], Sequence[int], np.ndarray]) -> None:
            files.extend(found[0])
            sizes.extend(found[1])
            inodes.append(found[2])
            progress.update()

        if len(classes) < PARALLEL_FROM:
            for name in by_path:
                take(listed(name))
        else:  # processes: a file takes too little time for threads not to wait for each other
            with ProcessPoolExecutor(cores()) as pool:
                for found in pool.map(listed, by_path, chunksize=8):
                    take(found)
    split = Split(tuple(in_label_order(classes)), tuple(files), tuple(sizes), np.concatenate(inodes))
    return checked(split, str(folder))
