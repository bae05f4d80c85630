"""Checkpoints of unfinished training, from which only the very same run resumes.

A checkpoint is one file: a SHA-256 digest of the rest, then a state that torch reads without executing anything.
The checkpoint before it is kept, and used when the newest is damaged. `run.json` beside them says what they belong to:
the run's identity (parameters, data, teacher) and the code and libraries that wrote them.
"""

import hashlib
import io
import json
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

import torch

from stages.core.base.errors import UserError
from stages.core.base.files import atomic, read_json, write_json
from stages.core.base.ownership import try_lock
from stages.core.models.folders import kept_epochs
from stages.core.train import finished
from stages.core.train.fingerprints import differing, digest, libraries

WAIT_S = 1.0  # between two tries to lock a folder
DIGEST_BYTES = hashlib.sha256().digest_size
LOAD_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError)


class CheckpointFolder:
    """The checkpoint of one run, in a folder named by the run and its fingerprint.

    A run with other parameters, data, teacher or code has another folder, so that it cannot resume from this one.
    The folder is locked while in use. If another process trains the same run, this one waits for it to end and resumes
    from its last checkpoint, which is the result if it has finished.

    Attributes:
        journal: a file beside the checkpoint for the names of unreadable images, adopted together with it.
        adopted: fingerprints of the other code and libraries that wrote checkpoints from which this run resumed.
        source: the checkpoint that `load` adopted; None if it did not.

    Args:
        root: the folder of all checkpoints.
        run: the run's name.
        identity: everything but code and libraries that decides the result, as JSON: parameters, digests of inputs.
        code: SHA-256 of each source file that decides the result, by name.
        fresh: start over: delete the checkpoints in the folder, and the output that a finished run left there.
        adopt: if the folder has no checkpoint, resume from the newest one of the same run and identity that was written
            by other code or libraries.
        writes: whether this process locks the folder and saves; the other processes of a run only load.
        in_any: returns whether a statement holds in any process of the run, so that all of them wait together.
    """

    def __init__(
        self,
        root: Path,
        run: str,
        identity: Mapping[str, Any],
        code: Mapping[str, str],
        *,
        fresh: bool = False,
        adopt: bool = False,
        writes: bool = True,
        in_any: Callable[[bool], bool] = bool,
    ) -> None:
        self.run = run
        self.writes = writes
        self.in_any = in_any
        if fresh and adopt:
            raise UserError("FRESH=1 ignores checkpoints, ADOPT=1 asks for one; unset one of them")
        written_by = {"code": dict(code), "libraries": libraries()}
        own = digest([identity, *written_by.values()])
        self.identity = json.dumps({"fingerprint": own, "of": identity}, sort_keys=True)
        self.description = {"run": run, "identity": json.loads(json.dumps(identity)), "fingerprint": own, **written_by}
        self.folder = root / f"{run}-{own[:12]}"
        self.file = self.folder / "checkpoint.pt"
        self.previous = self.folder / "previous.pt"
        self.journal = self.folder / "unreadable.txt"
        self.fresh, self.adopt = fresh, adopt
        self.adopted: list[str] = []
        self.source: Path | None = None

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
            finished.forget(self.folder)
        write_json(self.folder / "run.json", self.description)
        return self

    def _try_lock(self) -> bool:
        self._lock = self._lock or try_lock(self.folder / "lock")
        return self._lock is not None

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged checkpoint, or None; a damaged one is set aside with a warning.

        Raises:
            UserError: a checkpoint is to be adopted, and all those of the run have other parameters, data or teacher.
        """
        for file in (self.file, self.previous):
            if not file.is_file():
                continue
            try:
                return self._read(file)
            except LOAD_ERRORS as error:
                aside = file.with_suffix(".damaged")
                file.replace(aside)
                executable = isinstance(error, pickle.UnpicklingError)
                reason = "it holds objects other than tensors" if executable else str(error)
                instead = (
                    "resumes from the one before" if file == self.file and self.previous.is_file() else "starts over"
                )
                print(
                    f"warning: {aside} is damaged ({reason.partition(chr(10))[0]}); {self.run} {instead}",
                    file=sys.stderr,
                )
        return self._adopt() if self.adopt and self.writes else None

    def _read(self, file: Path, adopt: bool = False) -> dict[str, Any]:
        saved = torch.load(io.BytesIO(_content(file)), map_location="cpu", weights_only=True)
        identity, own = json.loads(saved["identity"]), json.loads(self.identity)
        if identity["of"] != own["of"] or (identity != own and not adopt):
            raise ValueError("it belongs to another run")
        self.adopted = [*saved.get("adopted", []), *([identity["fingerprint"]] if identity != own else [])]
        return saved["state"]

    def _adopt(self) -> dict[str, Any] | None:
        """The newest checkpoint of the same run and identity that was written by other code or libraries, or None."""
        different: list[str] = []
        for file, description in self._others():
            keys = differing(self.description["identity"], description["identity"])
            if keys:
                different = different or [str(file.parent), ", ".join(keys)]
                continue
            try:
                state = self._read(file, adopt=True)
            except LOAD_ERRORS as error:
                print(f"warning: {file} is damaged ({error}) and not adopted", file=sys.stderr)
                continue
            parts = ("code", "libraries")
            changed = ", ".join(key for part in parts for key in differing(self.description[part], description[part]))
            print(f"ADOPT=1: {self.run} resumes from {file}, written before {changed} changed", file=sys.stderr)
            journal = file.parent / self.journal.name
            if journal.is_file():
                shutil.copyfile(journal, self.journal)
            for path in kept_epochs(file.parent).values():
                shutil.copytree(path, self.folder / path.relative_to(file.parent), dirs_exist_ok=True)
            self.source = file
            return state
        if different:
            folder, names = different
            raise UserError(
                f"ADOPT=1: {self.run} has no checkpoint with these parameters, data and teacher; {folder} differs in "
                f"{names}; unset ADOPT to start over, or give the parameters that it has"
            )
        print(f"ADOPT=1: there is no checkpoint of {self.run}; it starts from the beginning", file=sys.stderr)
        return None

    def _others(self) -> list[tuple[Path, dict[str, Any]]]:
        """Checkpoints in other folders of the run with their descriptions, the newest first."""
        files = [
            record.with_name(name)
            for record in self.folder.parent.glob(f"{self.run}-*/run.json")
            for name in (self.file.name, self.previous.name)
            if record.parent != self.folder and record.with_name(name).is_file()
        ]
        described = [(file, read_json(file.with_name("run.json"))) for file in files]
        others = [(file, description) for file, description in described if description["run"] == self.run]
        return sorted(others, key=lambda other: other[0].stat().st_mtime, reverse=True)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by `state`, whole or not at all; the one before it is kept.

        Raises:
            UserError: the disk is full, or does not return the bytes that were written.
        """
        if not self.writes:
            return
        content = io.BytesIO()
        torch.save({"identity": self.identity, "adopted": self.adopted, "state": state}, content)
        with atomic(self.file) as temporary:
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
            try:
                _content(temporary)
            except ValueError as error:
                raise UserError(f"a checkpoint in {self.folder} was written, but {error}; check the disk") from None
            if self.file.is_file():
                self.file.replace(self.previous)


def _content(file: Path) -> memoryview:
    """The content of a checkpoint, without its digest.

    Raises:
        ValueError: content and digest do not agree.
    """
    data = memoryview(file.read_bytes())
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError("its content does not agree with its digest")
    return data[DIGEST_BYTES:]
