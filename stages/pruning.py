"""Take away the students that params no longer name, without losing what was trained."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stages.paths import ASIDE, TRAIN

Holds = Callable[[str], bool]  # whether a cache holds the object of a hash


def prune_students(keep: Sequence[str]) -> None:
    """Remove the folders of other students from artifacts/train, so that dvc.lock is the same in every clone.

    A folder that DVC's cache holds is deleted. Any other, as of a run that was trained without DVC, is moved to
    artifacts/aside, which a line reports. With the former parameters a run comes back without training in both cases:
    from DVC's cache, or from its checkpoint.
    """
    others = [path for path in TRAIN.iterdir() if path.name not in keep] if TRAIN.is_dir() else []
    holds = cached_by_dvc() if others else None
    for path in others:
        if not path.is_dir():
            path.unlink()
            continue
        objects = hashes(path)
        if holds and all(map(holds, objects)):
            shutil.rmtree(path)
            continue
        target = ASIDE / f"{path.name}-{objects[0][:12]}"
        if target.exists():  # set aside before, with the same content
            shutil.rmtree(path)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        print(f"{path} is not in params.yaml, nor in DVC's cache: moved to {target}", file=sys.stderr)


def hashes(folder: Path) -> list[str]:
    """The hashes under which DVC stores a folder: of the list of its files, then of each file."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = [{"md5": _md5(files[name]), "relpath": name} for name in sorted(files)]
    listing = hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return [f"{listing}.dir", *(entry["md5"] for entry in entries)]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def cached_by_dvc() -> Holds | None:
    """Whether an object is in this repository's DVC cache; None without DVC or outside of a DVC repository."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        return None
    try:
        with Repo() as repository:
            return repository.cache.local.exists
    except DvcException:
        return None
