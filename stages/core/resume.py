"""Checkpoints of unfinished training: resumed by the very same run, and by no other."""

import fcntl
import hashlib
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from stages.core.errors import UserError
from stages.core.files import atomic, sha256


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a run's result, and of the project's code that is loaded.

    Args:
        identity: resolved parameters and the digests of inputs; must be JSON.
    """
    code = {
        name: sha256(Path(module.__file__))
        for name, module in sorted(sys.modules.items())
        if name.startswith("stages.core.") and module.__file__
    }
    versions = {"torch": torch.__version__}
    return hashlib.sha256(json.dumps([identity, code, versions], sort_keys=True).encode()).hexdigest()


class CheckpointFolder:
    """The checkpoint of one run, in a folder named by the run and its fingerprint.

    A run of other parameters, data, teacher or code has another folder, so that it can never resume from
    this one. The folder is locked while in use.

    Args:
        root: the folder of all checkpoints.
        run: the run's name.
        identity: see `fingerprint`.
        fresh: start over, whatever the folder holds.
        writes: whether this process is the one that locks the folder and saves; the others of a run only load.
    """

    def __init__(
        self, root: Path, run: str, identity: Mapping[str, Any], *, fresh: bool = False, writes: bool = True
    ) -> None:
        self.run = run
        self.writes = writes
        self.folder = root / f"{run}-{fingerprint(identity)[:12]}"
        self.file = self.folder / "checkpoint.pt"
        self.fresh = fresh

    def __enter__(self) -> Self:
        if not self.writes:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{self.run} is already being trained by another process; wait for it or stop it") from None
        if self.fresh:
            self.file.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.writes:
            self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None where there is none; a damaged one is set aside with a warning."""
        if not self.file.is_file():
            return None
        try:
            return torch.load(self.file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            aside = self.file.with_suffix(".damaged")
            self.file.replace(aside)
            reason = str(error).partition("\n")[0]
            print(f"warning: {aside} is damaged ({reason}); {self.run} starts over", file=sys.stderr)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by `state`, whole or not at all."""
        if not self.writes:
            return
        with atomic(self.file) as temporary:
            torch.save(state, temporary)
