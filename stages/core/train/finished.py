"""The output of a finished run, kept beside its checkpoint, so that the same run takes it from there, bit for bit."""

import shutil
import sys
from pathlib import Path

from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder, read_json, sha256, write_json

OUTPUT, SEAL = "output", "output.json"


def keep(checkpoint: Path, written_by: str) -> None:
    """Seal the finished output in the folder of a run's checkpoint.

    Args:
        checkpoint: the folder; `OUTPUT` in it is complete.
        written_by: a digest of the code that wrote it. Output of other code is not taken, but written again from the
            checkpoint.
    """
    write_json(checkpoint / SEAL, {"written_by": written_by, "files": _digests(checkpoint / OUTPUT)})


def take(checkpoint: Path, folder: Path, written_by: str) -> bool:
    """Copy a run's finished output to `folder`, whole or not at all, and return whether there was one to take.

    One that was altered since it was sealed is not taken: a line says so.
    """
    if not (checkpoint / SEAL).is_file():
        return False
    try:
        sealed = read_json(checkpoint / SEAL)
        if sealed["written_by"] != written_by:
            return False
        whole = _digests(checkpoint / OUTPUT) == sealed["files"]
    except (UserError, OSError):
        whole = False
    if not whole:
        print(f"warning: {checkpoint / OUTPUT} was altered; it is written again", file=sys.stderr)
        forget(checkpoint)
        return False
    with atomic_folder(folder) as copy:
        shutil.copytree(checkpoint / OUTPUT, copy, dirs_exist_ok=True)
    return True


def forget(checkpoint: Path) -> None:
    """Remove the finished output, the seal first."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    shutil.rmtree(checkpoint / OUTPUT, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path within."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
