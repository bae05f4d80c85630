"""A copy of the repository, with git and DVC, in which `dvc repro` is started, stopped, killed and inspected."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from stages.core.base.files import TEMPORARY, sha256
from stages.tools.compose import composed

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 3600  # that any command may take, on a busy machine too
KNOWN = {"lock", "run.json", "checkpoint.pt", "previous.pt", "live", "epochs", "speed.json"}  # of a run in .ckpt


class Command:
    """A command in a process group of its own, and its output."""

    def __init__(self, words: tuple[str, ...], folder: Path, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def output(self) -> str:
        """All lines so far, and the exit status."""
        return "\n".join([*(line for _, line in list(self.lines)), f"exit status: {self.process.poll()}"])

    def line(self, text: str) -> str:
        """The first line that contains `text`."""
        found = [line for _, line in self.lines if text in line]
        assert found, f"nothing says {text!r}:\n{self.output}"
        return found[0]

    def stages(self) -> list[tuple[str, float]]:
        """The stages that `dvc repro` has started so far, and when."""
        matches = [(re.fullmatch(r"Running stage '(.+)':", line), moment) for moment, line in list(self.lines)]
        return [(match[1], moment) for match, moment in matches if match]

    def stage(self) -> str:
        """The stage that `dvc repro` started last, or ""."""
        return ([""] + [name for name, _ in self.stages()])[-1]

    def running(self) -> bool:
        """Whether the command is still running."""
        return self.process.poll() is None

    def wait(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> bool:
        """Wait until `condition` holds, the command ends or the time is over; whether the condition holds."""
        until = time.monotonic() + limit_s
        while self.running() and time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.002)
        if not self.running():
            self._reader.join(60)  # what it said last is read
        return bool(condition())

    def sleep(self, seconds: float) -> None:
        """Let the command run for some seconds, or to its end."""
        self.wait(lambda: False, seconds)

    def children(self) -> list[psutil.Process]:
        """All descendant processes of the command."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def computing(self) -> bool:
        """Whether a stage's process is running, not only DVC."""
        return bool(self.children())

    def send(self, sent: signal.Signals) -> None:
        """Send a signal to the process group, if it still exists."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, sent)

    def limit_files(self, limit: int) -> None:
        """Until the command ends, limit the files that its stages write to `limit` bytes each."""
        while self.running():
            for child in self.children():
                try:
                    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
                except ProcessLookupError:
                    continue
            time.sleep(0.01)

    def finish(self) -> int:
        """Wait until all processes of the group have ended; the exit status of the first."""
        try:
            status = self.process.wait(LIMIT_S)
            self._reader.join(60)  # of every process that can write to the pipe
            assert not self._reader.is_alive(), f"a process outlives its group's end:\n{self.output}"
        except BaseException:
            self.process.poll() is None and self.send(signal.SIGKILL)
            raise
        return status


class Project:
    """A copy of the repository with small parameters, and the results of one uninterrupted `dvc repro` in it."""

    def __init__(self, folder: Path, parameters: tuple[str, ...], **variables: str) -> None:
        self.folder, self.parameters = folder, parameters
        self.temporary = folder.parent / "tmp"
        self.temporary.mkdir(parents=True)
        own = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
        self.variables = {
            **own,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(folder),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
            "TMPDIR": str(self.temporary),
            "CHECKPOINT_MINUTES": "0",
            **variables,
        }
        self.reference: dict[str, str] = {}
        self.records: dict[str, Any] = {}  # of dvc.lock
        self.largest: dict[str, int] = {}  # bytes of the largest file among a stage's outputs
        self.span_s: dict[str, float] = {}  # of each stage, DVC's saving of its outputs included

    def copy(self) -> None:
        """Copy the files that git tracks or would add, except recorded studies; compose the parameters; commit."""
        names = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for name in names.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith("reports/studies"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "reports/studies").mkdir(parents=True, exist_ok=True)
        self.compose()
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
            self.run("git", *identity, *words)

    def compose(self, *parameters: str) -> None:
        """Compose params.yaml from the project's parameters and further ones."""
        (self.folder / "params.yaml").write_text(composed(*self.parameters, *parameters), encoding="utf-8")

    def start(self, *words: str, **variables: str) -> Command:
        """Start a command in the copy."""
        return Command(words, self.folder, {**self.variables, **variables})

    def run(self, *words: str) -> Command:
        """Run a command that must succeed."""
        command = self.start(*words)
        assert command.finish() == 0, command.output
        return command

    def refer(self, *targets: str) -> None:
        """Run `dvc repro` to its end; keep its lines, digests of its outputs and the duration of each stage."""
        command = self.run("dvc", "repro", *targets)
        self.said = [line for _, line in command.lines]
        moments = [*command.stages(), ("", time.monotonic())]
        self.span_s = {name: after - at for (name, at), (_, after) in pairwise(moments)}
        self.remember()
        self.largest = {stage: max(path.stat().st_size for path in self.files(stage)) for stage in self.records}
        assert set(self.span_s) <= set(self.records)

    def remember(self) -> None:
        """Take the outputs as they are now for the reference."""
        self.records = self.locked()
        self.reference = self.contents()

    def rerun(self, *targets: str) -> set[str]:
        """Run `dvc repro`; the stages that it runs, or takes from its cache of runs."""
        return self._due(self.run("dvc", "repro", *targets))

    def due(self) -> set[str]:
        """The stages whose own dependencies or parameters have changed; those after them are not among these."""
        return self._due(self.run("dvc", "repro", "--dry"))

    def _due(self, command: Command) -> set[str]:
        lines = [line for _, line in command.lines]
        named = {line.split("'")[1] for line in lines if line.startswith(("Running stage", "Stage"))}
        return named - {line.split("'")[1] for line in lines if "didn't change" in line}

    def locked(self) -> dict[str, Any]:
        """The entry of each stage in dvc.lock."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {name: record for name, record in stages.items() if name in self.span_s}

    def outputs(self, stage: str) -> list[Path]:
        """The paths of a stage's outputs."""
        return [self.folder / out["path"] for out in self.records[stage]["outs"]]

    def files(self, stage: str) -> list[Path]:
        """The existing files among a stage's outputs."""
        tops = self.outputs(stage)
        return [path for top in tops for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file()]

    def contents(self, *stages: str) -> dict[str, str]:
        """SHA-256 of every output file of some stages, or of all."""
        files = [path for stage in stages or self.records for path in self.files(stage)]
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in files}

    def forget(self, stage: str) -> None:
        """Remove a stage's outputs, DVC's copies of them, its entries in the cache of runs, and its checkpoints.

        `dvc repro` then has no source for its results, and must compute them.
        """
        cache = self.folder / ".dvc/cache"
        locked = self.locked()
        record = locked.pop(stage)
        for path in self.outputs(stage):
            _remove(path)
        for unshared in _objects(cache, [record]) - _objects(cache, locked.values()):
            unshared.unlink(missing_ok=True)
        for run in list(cache.glob("runs/*/*/*")):
            if run.is_file() and yaml.safe_load(run.read_text())["cmd"] == record["cmd"]:
                shutil.rmtree(run.parent)  # DVC fails on an empty folder here
        kind, _, item = stage.partition("@")
        for checkpoints in self.folder.glob(f".ckpt/{item if kind == 'train' else kind}-*"):
            shutil.rmtree(checkpoints)

    def half_written(self) -> list[str]:
        """Existing output files that differ from the reference, temporary files excepted."""
        return [
            name
            for name, digest in self.contents().items()
            if self.reference.get(name) != digest and not re.search(r"(^|/)\.[^/]+\.tmp(/|$)", name)
        ]

    def temporaries(self) -> list[Path]:
        """Temporary files and folders, of stages or of DVC, among outputs and checkpoints."""
        tops = [self.folder / name for name in ("artifacts", "reports", ".ckpt")]
        return [path for top in tops for path in top.rglob(".*.tmp")]

    def left_elsewhere(self) -> dict[str, int]:
        """Number of temporary files that killed processes have left in .dvc and in the system's temporary folder."""
        return {"in .dvc": len([*self.folder.glob(".dvc/**/.*.tmp")]), "in TMPDIR": len([*self.temporary.iterdir()])}

    def strange_checkpoints(self) -> list[Path]:
        """Unexpected files among the checkpoints: a second folder of the same run, or an unknown file in one."""
        folders = sorted(path for path in self.folder.glob(".ckpt/*") if path.is_dir())
        runs = [path.name.rpartition("-")[0] for path in folders]
        twice = [path for path, run in zip(folders, runs, strict=True) if runs.count(run) > 1]
        return twice + [path for folder in folders for path in folder.iterdir() if path.name not in KNOWN]

    def saving(self) -> bool:
        """Whether a process is writing a checkpoint right now."""
        found = [TEMPORARY.fullmatch(path.name) for path in self.folder.glob(".ckpt/*/.*.tmp")]
        return any(match and _runs(int(match["process"])) for match in found)


def _runs(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _objects(cache: Path, records: Iterable[dict[str, Any]]) -> set[Path]:
    """The files in DVC's cache that hold the outputs of some stages."""
    found = set()
    for out in (out for record in records for out in record["outs"]):
        digests = [out["md5"]]
        listing = _object(cache, out["md5"])
        if listing.suffix == ".dir" and listing.is_file():
            digests += [entry["md5"] for entry in json.loads(listing.read_text())]
        found |= {_object(cache, digest) for digest in digests}
    return found


def _object(cache: Path, digest: str) -> Path:
    return cache / "files/md5" / digest[:2] / digest[2:]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
