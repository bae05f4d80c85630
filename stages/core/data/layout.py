"""What every reader takes for an image, a class and a usable name, and what it leaves out."""

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath

from stages.core.base.errors import UserError

# What Pillow decodes, by its names. No other format is opened, whatever a file is called: EPS would run a program.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "TIFF": (".tif", ".tiff"),
    "TGA": (".tga",),
}
EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)
LEFTOVER = "leftover"  # counted beside the suffixes of other files that are left out
LAYOUT = "ROOT/SPLIT/CLASS/IMAGE"
# Compressed archives, which cannot be read at any offset, and other kinds of archive.
COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst|zip|7z|rar|gz|bz2|xz|zst)$", re.IGNORECASE)
LEFTOVERS = frozenset(
    {
        "__macosx",  # macOS, in archives
        "icon\r",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "$recycle.bin",  # Windows
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@tmp",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "~snapshot",  # NetApp
        "lost+found",  # Linux
        "paxheader",  # archives unpacked by old programs
        "__pycache__",
    }
)
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # controls; surrogates stand for undecodable bytes
PLAIN = re.compile(r"[!-~]+( [!-~]+)*")  # printable ASCII without odd spaces


def is_image(name: str) -> bool:
    """Whether a file is an image, by its extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122  a tenth of pathlib's time


def kind(name: str) -> str:
    """The kind by which a file that is left out is counted: its suffix, if it is a usual one."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z][a-z0-9]{0,9}", suffix) else "other file"


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(".tar") or bool(COMPRESSED.search(name))


def unpacked(archive: str) -> str:
    """The name of the folder to which an archive unpacks."""
    return re.sub(r"\.tar$", "", COMPRESSED.sub("", archive), flags=re.IGNORECASE)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is what file managers and tools leave behind, or hidden: no part of a dataset.

    Such as `._IMAGE`, `.DS_Store`, `.ipynb_checkpoints`, `@eaDir`, `__MACOSX`, `Thumbs.db`.
    """
    return name.startswith(".") or name.lower() in LEFTOVERS or name.startswith("PaxHeaders.")


def is_usable(name: str) -> bool:
    """Whether a name holds neither control characters nor undecodable bytes."""
    return name.isprintable() or not UNUSABLE.search(name)


def spelled(names: Iterable[str]) -> str:
    """Names for a message that compares them; non-ASCII ones with their escapes, which show how two differ."""
    return ", ".join(name if PLAIN.fullmatch(name) else f"{name} ({name!a})" for name in names)


def twins(names: Iterable[str]) -> list[str]:
    """The first two names that differ in their Unicode form only (as NFC and NFD do), or none."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        composed = unicodedata.normalize("NFC", name)
        if composed in seen:
            return [seen[composed], name]
        seen[composed] = name
    return []


def label_list(folder: Path) -> Path | None:
    """The list of the classes of the images that lie flat in a split's folder or archive, if there is one.

    ROOT/SPLIT.csv or ROOT/SPLIT.txt, each line an image and its class; ImageNet's ROOT/LOC_val_solution.csv; Tiny
    ImageNet's ROOT/val/val_annotations.txt.

    Args:
        folder: ROOT/SPLIT, there or not.
    """
    root, split = folder.parent, folder.name
    names = (f"{split}.csv", f"{split}.txt", f"LOC_{split}_solution.csv", f"{split}/{split}_annotations.txt")
    return next((root / name for name in names if (root / name).is_file()), None)


def labelled(images: Iterable[str], file: Path) -> list[str]:
    """CLASS/…/IMAGE of images that lie flat, by a list of their classes (see `label_list`).

    The list may name images without suffix, and more than there are; further columns are passed over.

    Args:
        images: their paths.
        file: the list.

    Raises:
        UserError: the list gives an image no class, or two; or a line of it has one column.
    """
    classes: dict[str, str] = {}
    with readable(file), file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        text = (line.replace("\0", "") for line in lines)
        for row in csv.reader(text) if file.suffix == ".csv" else map(str.split, text):
            if not row:
                continue
            # After a WordNet id come the boxes of Kaggle's LOC_val_solution.csv.
            label = re.sub(r"^(n\d{8}) .*", r"\1", row[1].strip()) if len(row) > 1 else ""
            if not label or "/" in label or classes.setdefault(_unsuffixed(row[0]), label) != label:
                raise UserError(f"{file} does not give {row[0]} one class; each of its lines is an image and a class")
    named = [(path, classes.get(_unsuffixed(path))) for path in images]
    without = next((path for path, label in named if label is None), None)
    if without is not None:
        raise UserError(f"{file} gives {without} no class; add it, or remove the image")
    return [f"{label}/{path}" for path, label in named]


def _unsuffixed(path: str) -> str:
    name = PurePosixPath(path.strip())
    return name.stem if is_image(name.name) else name.name


def without_classes(place: str, folder: Path) -> UserError:
    """The error for a split whose images lie flat, and have no list of their classes.

    Args:
        place: what the message calls the folder of the images.
        folder: ROOT/SPLIT.
    """
    return UserError(
        f"{place} holds no class folder, but images: move each into a folder of its class ({LAYOUT}), for ImageNet's "
        f"validation images by valprep.sh; or put a list of lines IMAGE,CLASS beside it, as {folder}.csv (for ImageNet "
        "Kaggle's LOC_val_solution.csv)"
    )


def in_class_folders(
    images: Sequence[tuple[str, tuple[str, ...]]], place: str, folder: Path, label_file: Path | None = None
) -> list[str]:
    """CLASS/…/IMAGE of each image in a split's archives: the class is the outermost folder, as of class folders.

    Folders that all images have in common are not classes: the split's own, say. In a folder of archives whose images
    lie in no other folder, each archive is a class. If all images of a single archive lie in one folder, a list of
    their classes counts.

    Args:
        images: the name of its archive without extension ("" where the split is one archive), and its path in there.
        place: what a message calls the split.
        folder: ROOT/SPLIT.
        label_file: the list of classes, or None.

    Raises:
        UserError: an image is in no class folder.
    """
    folders = [path[:-1] for _, path in images]
    outermost = takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
    shared = sum(1 for _ in outermost)  # folders that all have in common
    flat = next((index for index, folder in enumerate(folders) if len(folder) == shared), None)
    if flat is None:
        return ["/".join(path[shared:]) for _, path in images]
    if all(archive for archive, _ in images):  # one archive for each class
        rests = [(archive, path[shared:]) for archive, path in images]
        return ["/".join((archive, *(rest[1:] if rest[0] == archive else rest))) for archive, rest in rests]
    if len(set(folders)) == 1:
        if label_file is not None:
            return labelled([path[-1] for _, path in images], label_file)
        if not shared:
            raise without_classes(place, folder)
        return ["/".join(path[shared - 1 :]) for _, path in images]  # a single class
    raise outside_classes(f"{place} holds {'/'.join(images[flat][1])}")


def outside_classes(what: str) -> UserError:
    """The error for an image that is in no class folder, whose message begins with `what`."""
    return UserError(f"{what} in no class folder; move it into one, or remove it")


def cannot_read(path: Path | str, error: OSError) -> UserError:
    """The error for a file or folder that the system refuses to read."""
    if isinstance(error, PermissionError):
        mend = "give yourself the right to read it (chmod -R u+rX), or remove it"
    else:
        mend = "mend it or its disk"
    return UserError(f"{path} cannot be read ({error.strerror or error}); {mend}")


@contextmanager
def readable(place: Path | str) -> Iterator[None]:
    """Turn the system's refusal to read something at `place` into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise cannot_read(error.filename or place, error) from None


def stem(archive: str) -> str:
    """The name of an archive without folders and extension."""
    return PurePosixPath(archive).stem
