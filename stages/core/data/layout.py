"""What every reader takes for an image, a class and a usable name, and what it passes over."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath

from stages.core.base.errors import UserError

EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
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


def in_class_folders(images: Sequence[tuple[str, tuple[str, ...]]], place: str) -> list[str]:
    """CLASS/…/IMAGE of each image in a split's archives: the class is the outermost folder, as of class folders.

    Folders that all images have in common are not classes: the split's own, say. In a folder of archives whose images
    lie in no other folder, each archive is a class.

    Args:
        images: the name of its archive without extension ("" where the split is one archive), and its path in there.
        place: what a message calls the split.

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
    if shared and len(set(folders)) == 1:  # a single class
        return ["/".join(path[shared - 1 :]) for _, path in images]
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
