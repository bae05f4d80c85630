"""Reading and writing files: none is half-written, and nothing is loaded that can execute.

Every write goes to a temporary name in the same folder, and is renamed once it is complete. What a killed process
left is removed by the next one that writes to the folder.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stages.core.base.errors import UserError, full_disk_reported
from stages.core.base.ownership import is_running, process_space

TEMPORARY = re.compile(r"\..+\.(?P<space>[0-9a-f]{8})\.(?P<process>\d+)\.tmp")  # .NAME.SPACE.PROCESS.tmp
ABANDONED_S = 7 * 86_400  # of a temporary file whose process cannot be looked up, since its last change
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` unless the body raises."""
    with full_disk_reported(path):
        temporary = _temporary(path)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it replaces `path` unless the body raises."""
    with full_disk_reported(path):
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """An unused name beside `path` that belongs to this process; what ended processes left beside it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{process_space()}.{os.getpid()}.tmp")
    _remove(temporary)  # an ended process may have had the same id
    return temporary


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` that nobody writes any more.

    The process of one that was made here is looked up. One of another container or machine is left alone until nothing
    in it has changed for a week.
    """
    with os.scandir(folder) as entries:
        found = [(Path(entry.path), match) for entry in entries if (match := TEMPORARY.fullmatch(entry.name))]
    for path, match in found:
        here = match["space"] == process_space()
        if not is_running(int(match["process"])) if here else _age_s(path) > ABANDONED_S:
            _remove(path)


def _age_s(path: Path) -> float:
    """Seconds since the last change of a file, or of anything in a folder; 0 while it changes."""
    try:
        return time.time() - max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make the disk hold a file's content, or a folder's entries, where the file system can be asked to."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:  # several network and FUSE file systems do not sync folders
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; a file with the same content is left unchanged."""
    if path.is_file() and path.read_bytes() == text.encode():
        sweep(path.parent)
        return
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON.

    Raises:
        ValueError: it contains a NaN or an infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write `rows` with a header line of `columns`, by default the keys of the first row."""
    header = list(columns if columns is not None else rows[0])
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class JsonObject(dict[str, Any]):
    """An object of a JSON file. A missing key raises UserError: another version of the project wrote the file."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path} has no {key!r}: another version wrote it; delete it and run `dvc repro`")

    def __reduce__(self) -> Any:
        return JsonObject, (dict(self), self.path)


def read_json(path: Path) -> Any:
    """Read a JSON file that holds an object.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold an object; later, where a missing key is read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_hook=lambda content: JsonObject(content, path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run `dvc repro`") from None
    if not isinstance(found, JsonObject):
        raise UserError(f"{path} must hold an object, not {type(found).__name__}; delete it and run `dvc repro`")
    return found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one is only faster
    """The safe loader, with numbers such as 3e-3, which YAML 1.1 takes for text, but YAML 1.2, DVC and Hydra do not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_digest(files: Iterable[str]) -> str:
    """SHA-256 over the names of files, one a line, in the order given; without their folders.

    It tells a published set of images by its names, wherever the files lie and whatever their folders are called.
    """
    return hashlib.sha256("".join(f"{file.rpartition('/')[2]}\n" for file in files).encode()).hexdigest()


def prune(folder: Path, keep: Sequence[str]) -> None:
    """Remove from `folder` what is not in `keep`, such as runs that params no longer name.

    Leftovers would enter dvc.lock, which must be the same in every clone.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
