"""Checkpoints of unfinished training: resumed by the very same run, and by no other.

A checkpoint is one file: the SHA-256 of what follows, then a state that torch reads without executing anything.
The one before it is kept, and taken where the newest is damaged.
"""

import hashlib
import io
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self

import torch

from stages.core.base.errors import UserError
from stages.core.base.files import atomic, sha256
from stages.core.base.ownership import try_lock

PACKAGE = Path(__file__).resolve().parents[2]  # by file: a stage's own module is called __main__, or otherwise
WAIT_S = 1.0  # between two tries to lock a folder
LIBRARIES = ("torch", "torchvision", "timm")
DIGEST_BYTES = hashlib.sha256().digest_size
DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a run's result: the project's code that is loaded and the libraries, too.

    Args:
        identity: resolved parameters and the digests of inputs; must be JSON.
    """
    loaded = {Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    files = sorted(file for file in loaded if file.is_relative_to(PACKAGE))
    code = {file.relative_to(PACKAGE).as_posix(): sha256(file) for file in files}
    versions = {name: version(name) for name in LIBRARIES}
    return hashlib.sha256(json.dumps([identity, code, versions], sort_keys=True).encode()).hexdigest()


class CheckpointFolder:
    """The checkpoint of one run, in a folder named by the run and its fingerprint.

    A run of other parameters, data, teacher or code has another folder, so that it can never resume from
    this one. The folder is locked while in use. Where another process trains the same run, this one waits for it to end
    and goes on from its last checkpoint, which is the result if it finished.

    Args:
        root: the folder of all checkpoints.
        run: the run's name.
        identity: see `fingerprint`.
        fresh: start over, whatever the folder holds.
        writes: whether this process is the one that locks the folder and saves; the others of a run only load.
        in_any: whether a statement holds in any process of the run, so that all wait together.
    """

    def __init__(
        self,
        root: Path,
        run: str,
        identity: Mapping[str, Any],
        *,
        fresh: bool = False,
        writes: bool = True,
        in_any: Callable[[bool], bool] = bool,
    ) -> None:
        self.run = run
        self.writes = writes
        self.in_any = in_any
        self.identity = json.dumps({"fingerprint": fingerprint(identity), "of": identity}, sort_keys=True)
        self.folder = root / f"{run}-{fingerprint(identity)[:12]}"
        self.file = self.folder / "checkpoint.pt"
        self.previous = self.folder / "previous.pt"
        self.fresh = fresh

    def __enter__(self) -> Self:
        self._lock: IO[str] | None = None
        waits = False
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        while self.in_any(self.writes and not self._try_lock()):
            if self.writes and not waits:
                print(f"waiting for another process that trains {self.run}", file=sys.stderr, flush=True)
            waits = True
            time.sleep(WAIT_S)
        if not self.writes:
            return self
        if self.fresh:
            self.file.unlink(missing_ok=True)
            self.previous.unlink(missing_ok=True)
        return self

    def _try_lock(self) -> bool:
        self._lock = self._lock or try_lock(self.folder / "lock")
        return self._lock is not None

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, or None where there is none; a damaged one is set aside with a warning."""
        for file in (self.file, self.previous):
            if not file.is_file():
                continue
            try:
                return self._read(file)
            except DAMAGE as error:
                aside = file.with_suffix(".damaged")
                file.replace(aside)
                reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else str(error)
                instead = (
                    "goes on from the one before" if file == self.file and self.previous.is_file() else "starts over"
                )
                print(
                    f"warning: {aside} is damaged ({reason.partition(chr(10))[0]}); {self.run} {instead}",
                    file=sys.stderr,
                )
        return None

    def _read(self, file: Path) -> dict[str, Any]:
        saved = torch.load(io.BytesIO(_content(file)), map_location="cpu", weights_only=True)
        if saved["identity"] != self.identity:
            raise ValueError("it is another run's")
        return saved["state"]

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by `state`, whole or not at all; the one before is kept beside it.

        Raises:
            UserError: the disk is full, or gives back other bytes than were written.
        """
        if not self.writes:
            return
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        with atomic(self.file) as temporary:
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
            try:
                _content(temporary)
            except ValueError as error:
                raise UserError(f"a checkpoint in {self.folder} is written, but {error}; check the disk") from None
            if self.file.is_file():
                self.file.replace(self.previous)


def _content(file: Path) -> memoryview:
    """What follows the digest in a checkpoint.

    Raises:
        ValueError: it is not what the digest is of.
    """
    data = memoryview(file.read_bytes())
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError("its content does not agree with its digest")
    return data[DIGEST_BYTES:]


@contextmanager
def termination_noted() -> Iterator[Callable[[], bool]]:
    """Hold SIGTERM back and yield a function that says whether it came, so that a checkpoint can be saved first.

    A signal that nobody acted on by the end of the block takes its usual effect then.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        os.kill(os.getpid(), signal.SIGTERM)
