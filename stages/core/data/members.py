"""The images in one tar archive, however it holds them: found or reported, never left out silently."""

import posixpath
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stages.core.base.errors import UserError
from stages.core.data.layout import COMPRESSED, LEFTOVER, is_image, is_leftover, kind, readable, stem

Extent = tuple[int, int]  # offset in the archive and size, in bytes
Members = dict[tuple[str, ...], Extent]  # by path, as parts
REDO = "pack the archive anew"
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
LINKS_AT_MOST = 40  # from one to the next, as Linux allows


@dataclass
class _Level:
    """What one archive, or a tar within it, holds so far.

    Attributes:
        files: every file, images or not, as links may lead to it, by normalised path.
        links: symbolic links and where they lead, by normalised paths.
        inner: the images of tars within it, their paths beginning with the tar's name as a folder.
        labels: the classes that a WebDataset shard gives its samples, by path without suffix.
        leftovers: the outermost paths of leftovers, those of tars within it included.
        others: how many files are no images, by suffix, likewise.
    """

    files: dict[str, Extent] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    inner: Members = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    leftovers: set[tuple[str, ...]] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)

    def images(self) -> Members:
        """The images, those of tars within it included."""
        return {tuple(path.split("/")): extent for path, extent in self.files.items() if is_image(path)} | self.inner


@dataclass(frozen=True)
class Listing:
    """What one archive holds: its images, whether it is a WebDataset shard, and how many other files, by suffix."""

    images: Members
    shard: bool
    left_out: Counter[str]


def list_archive(archive: Path) -> Listing:
    """The images of an archive, those of tars within it included, and what was left out.

    Of several members of one path the last counts, as for a program that unpacks the archive. Links lead to what they
    would lead to after that. In a WebDataset shard, where KEY.cls holds the class of KEY.jpg, an image is
    CLASS/SHARD/KEY.jpg.

    Raises:
        UserError: the archive is compressed or damaged; it goes on after its end; it holds an image as something that
            has no bytes of its own in it: a sparse file, a device, a link to nowhere; or it is a shard with an image
            without class, or with two of one sample.
    """
    with readable(archive), archive.open("rb") as file:
        start = file.read(8)
        packed = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
        if packed:
            raise UserError(f"{archive} is compressed ({packed}), and images are read in place; decompress it")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r|") as tar:  # in one pass: seeking is slow on disks that turn
                level = _list_level(archive, tar, 0, ())
                ended = tar.offset
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise UserError(f"{archive} is not a whole tar archive ({error}); replace it") from None
    _refuse_more(archive, ended, archive.stat().st_size)
    left_out = level.others + Counter({LEFTOVER: len(level.leftovers)})
    return Listing(_in_label_folders(archive, level.images(), level.labels), bool(level.labels), left_out)


def _in_label_folders(archive: Path, images: Members, labels: dict[str, str]) -> Members:
    """CLASS/SHARD/… of each image, by the labels of a WebDataset shard, if there are any."""
    if not labels:
        return images
    found: Members = {}
    seen = set()
    for path, extent in images.items():
        sample = _sample("/".join(path))
        if sample not in labels or sample in seen:
            fault = f"a second image of sample {sample}" if sample in seen else f"{'/'.join(path)} without {sample}.cls"
            raise UserError(f"{archive} is a WebDataset shard, but holds {fault}; {REDO} with one of each")
        seen.add(sample)
        found[(labels[sample], stem(archive.name), *path)] = extent
    return found


def _sample(path: str) -> str:
    """The key of a WebDataset sample: the path up to the first dot of the file's name."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])


def _list_level(archive: Path, tar: tarfile.TarFile, start: int, above: tuple[str, ...]) -> _Level:
    """What `tar` holds, which begins at `start` in the archive's file; `above` is its path as folders."""
    level = _Level()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # which would keep every member in memory
        path = posixpath.normpath(f"/{member.name}").lstrip("/")
        parts = tuple(path.split("/"))
        left = next((depth for depth, part in enumerate(parts) if is_leftover(part)), None)
        if left is not None:
            level.leftovers.add(above + parts[: left + 1])
            continue
        name = f"{archive} holds {'/'.join(above + parts)}"
        level.files.pop(path, None)
        level.links.pop(path, None)
        if member.isdir():
            continue
        if member.islnk():
            target = level.files.get(posixpath.normpath(f"/{member.linkname}").lstrip("/"))
            if target is None:
                raise _dangling(name, member.linkname)
            level.files[path] = target
        elif member.issym():
            level.links[path] = member.linkname
        elif not member.isreg():
            if is_image(path):
                raise UserError(f"{name} as a device, pipe or the like, not as a file; {REDO} without it")
        elif member.issparse():
            if is_image(path) or path.lower().endswith(".tar"):
                raise UserError(f"{name} as a sparse file, in pieces; {REDO} without tar's --sparse")
        elif path.lower().endswith(".tar"):
            inside = tar.extractfile(member)
            assert inside is not None  # a regular file
            with tarfile.open(fileobj=inside, mode="r|") as inner:
                folder = (*parts[:-1], stem(parts[-1]))
                begin = start + member.offset_data
                found = _list_level(archive, inner, begin, above + folder)
            _refuse_more(archive, begin + inner.offset, begin + member.size)
            level.leftovers |= found.leftovers
            level.others += found.others
            for place, inner_extent in found.images().items():
                repeated = len(place) > 1 and place[0] == folder[-1]  # a tar of a folder of its own name
                level.inner[(*folder, *(place[1:] if repeated else place))] = inner_extent
        elif path.endswith(".cls") and not above:
            content = tar.extractfile(member)
            assert content is not None  # a regular file
            label = content.read(100).decode(errors="replace").strip()
            if not re.fullmatch(r"\w[\w .-]*", label):
                raise UserError(f"{name}, which is no class but {label!r}; {REDO} with a number or a name in it")
            level.labels[_sample(path)] = label
        elif COMPRESSED.search(path):
            raise UserError(f"{name}, which is compressed; {REDO} with it unpacked, or without it")
        else:
            level.files[path] = start + member.offset_data, member.size
    for link, leads_to in level.links.items():
        extent = _follow(level, link)
        if extent is None:
            raise _dangling(f"{archive} holds {'/'.join((*above, link))}", leads_to)
        level.files[link] = extent
    level.others.update(kind(path) for path in level.files if not is_image(path))
    return level


def _follow(level: _Level, path: str) -> Extent | None:
    """Where a symbolic link leads, over others; None if to no file of the archive."""
    for _ in range(LINKS_AT_MOST):
        target = level.links.get(path)
        if target is None:
            return level.files.get(path)
        if target.startswith("/"):
            return None
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
    return None


def _dangling(name: str, target: str) -> UserError:
    return UserError(
        f"{name} as a link to {target}, which is not a file of the archive; {REDO} with files in place of links "
        "(tar --dereference --hard-dereference), or without it"
    )


def _refuse_more(archive: Path, begin: int, end: int) -> None:
    """Refuse an archive that goes on after its end, with another archive that no program would see."""
    with archive.open("rb") as file:
        file.seek(begin)
        while file.tell() < end:
            block = file.read(tarfile.BLOCKSIZE)
            if block.strip(b"\0"):
                break
        else:
            return
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:  # padding of another kind
        return
    raise UserError(f"{archive} holds another archive after its end; join them with tar --concatenate instead")
