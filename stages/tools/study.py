"""Run the pipeline without DVC, in pieces of a given length: python -m stages.tools.study --minutes 8.

For machines without DVC, or on which a session lasts minutes. Runs the stages of dvc.yaml with the parameters of
params.yaml, several at once if asked, and skips those that are done with the same command, parameters, code and
inputs. Students of one seed are trained by one command, side by side. Training that the time limit interrupts goes on
from its checkpoints when the command is given again. SIGTERM and Ctrl-C end the running stages in the same
way. Exit status: 0 when nothing is left, 75 when something is, 1 after a failure.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, read_yaml, sha256, write_json
from stages.core.runtime import machine

PIPELINE, PARAMS = Path("dvc.yaml"), Path("params.yaml")
GRACE_S = 15.0  # at the end of the time, for running stages to stop by themselves
POLL_S = 0.1  # between two looks at the running stages
TOGETHER = "train"  # the stage whose steps of one seed are run by one command, which takes the options of each
LEFT = 75  # exit status when something is left: EX_TEMPFAIL


@dataclass(frozen=True)
class Step:
    """One run of a stage.

    Attributes:
        name: STAGE, or STAGE@ITEM, as in DVC.
        command: the shell command in dvc.yaml.
        deps, outs: the files and folders that it reads and writes.
        params: the parameters that it reads, by dotted key.
        always: whether it runs every time (`always_changed`).
        together: equal for steps that one command can run, with the options of each; "" for a step that runs alone.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: Mapping[str, Any]
    always: bool
    together: str = ""

    def follows(self, other: "Step") -> bool:
        """Whether this step reads what another one writes."""
        return any(_overlap(dep, out) for dep in self.deps for out in other.outs)

    def fingerprint(self) -> str:
        """SHA-256 of the command, the parameters, and the contents of all dependencies."""
        contents = {dep: [[str(file), sha256(file)] for file in _files(Path(dep))] for dep in self.deps}
        return hashlib.sha256(json.dumps([self.command, self.params, contents], sort_keys=True).encode()).hexdigest()

    def done(self, stamps: Mapping[str, str]) -> bool:
        """Whether its outputs exist, made by the same command from the same parameters and dependencies."""
        exist = all(Path(out).exists() for out in self.outs)
        return exist and not self.always and self.name in stamps and stamps[self.name] == self.fingerprint()


def _overlap(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _files(path: Path) -> list[Path]:
    """The files of a dependency but for those that .dvcignore leaves out: compiled code, and pages beside code."""
    if not path.is_dir():
        return [path]
    code = path.parts[0] in ("stages", "reports")
    found = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(file for file in found if not (code and file.suffix == ".md"))


def steps(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Step]:
    """The steps of a pipeline, in the order of dvc.yaml; students by seed, so that a grid is whole for one seed first.

    Args:
        pipeline: `stages` of dvc.yaml.
        params: the content of params.yaml.

    Raises:
        UserError: params.yaml lacks a key that the pipeline names, or has one value where a matrix needs a list.
    """
    for stage, given in pipeline.items():
        entry = given.get("do", given)
        for key, item in _items(given, params).items():
            scope = {"": params, "item": item, "key": key}

            def named(entries: Sequence[Any], scope: Mapping[str, Any] = scope) -> tuple[str, ...]:
                plain = (next(iter(one)) if isinstance(one, dict) else one for one in entries)
                return tuple(_filled(one, scope) for one in plain)

            yield Step(
                name=f"{stage}@{key}" if key else stage,
                command=_filled(entry["cmd"], scope),
                deps=named(entry.get("deps", ())),
                outs=named(entry.get("outs", ())),
                params={name: _at(params, name) for name in named(entry.get("params", ()))},
                always=entry.get("always_changed", False),
                together=f"{stage} {item['seed']}" if stage == TOGETHER and "seed" in item else "",
            )


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        try:
            values = values[part]
        except (KeyError, TypeError):
            raise UserError(f"{PARAMS}: {path}: is missing, and {PIPELINE} reads it") from None
    return values


def _items(entry: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The items of a stage's `foreach` or `matrix`, named as DVC names them, by seed; one without a name for others."""
    if "foreach" in entry:
        items = _resolved(entry["foreach"], {"": params})
        if not isinstance(items, dict):
            raise UserError(f"{PARAMS}: {entry['foreach'][2:-1]}: must be a mapping; compose it anew")
    else:
        matrix = {key: _listed(values, params) for key, values in entry.get("matrix", {}).items()}
        found = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
        items = {"-".join(map(str, item.values())): item for item in found}
    return dict(sorted(items.items(), key=lambda named: named[1].get("seed", 0)))


def _listed(values: Any, params: Mapping[str, Any]) -> list[Any]:
    """The values of one key of a matrix."""
    found = _resolved(values, {"": params})
    if not isinstance(found, list):
        raise UserError(f"{PARAMS}: {values[2:-1]}: must be a list, as [{found}]")
    return found


def _resolved(value: Any, scope: Mapping[str, Any]) -> Any:
    """A value of dvc.yaml; if it is one ${…}, the value that this stands for."""
    if not isinstance(value, str) or not value.startswith("${"):
        return value
    name = value[2:-1]
    if name == "key":
        return scope["key"]
    return _at(scope, name) if name.startswith("item.") else _at(scope[""], name)


def _filled(text: str, scope: Mapping[str, Any]) -> str:
    return re.sub(r"\$\{[\w.]+\}", lambda found: str(_resolved(found[0], scope)), text)


def command(steps: Sequence[Step]) -> list[str]:
    """The words of the command that runs one step, or several at once: the first one's, then the others' options."""
    words, *others = (shlex.split(step.command) for step in steps)
    if words[0] == "python":
        words[0] = sys.executable
    for other in others:
        words += other[next(place for place, word in enumerate(other) if word.startswith("--")) :]
    return words


class Running:
    """A step, or several by one command, in a process group of its own, with the output in a file.

    Args:
        steps: the steps to run.
        folder: for the file.
    """

    def __init__(self, steps: Sequence[Step], folder: Path) -> None:
        self.steps = list(steps)
        self.name = ", ".join(step.name for step in steps)
        self.fingerprints = {step.name: step.fingerprint() for step in steps}
        self.started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        others = f"+{len(steps) - 1}" if len(steps) > 1 else ""
        self.log = folder / f"{steps[0].name}{others}.txt"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command(steps), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ask(self) -> None:
        """Ask it to end (SIGTERM); training saves a checkpoint first."""
        self.process.terminate()

    def end(self, wait_s: float) -> None:
        """Wait up to `wait_s` seconds for its end, then kill what is left of its process group."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, wait_s))
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def execute(
    waiting: list[Step], stamps: dict[str, str], folder: Path, *, at_once: int, together: int | None, until: float
) -> list[str]:
    """Run steps, each after those whose outputs it reads.

    Args:
        waiting: the steps; each comes after those whose outputs it reads.
        stamps: fingerprints of finished steps by name; changed in place, and saved in `folder`.
        folder: for the stamps and the steps' output.
        at_once: how many commands may run at the same time.
        together: how many steps one command may run; None for no limit.
        until: when to end, on the clock of `time.monotonic`.

    Returns:
        The names of the steps that are not done.

    Raises:
        UserError: a step failed.
    """
    waiting = list(waiting)
    running: list[Running] = []
    try:
        while (waiting or running) and time.monotonic() < until - GRACE_S:
            for step in list(waiting):
                if len(running) == at_once or step not in waiting or not _ready(step, waiting, running):
                    continue
                if chosen := _taken(step, waiting, running, stamps, together):
                    running.append(Running(chosen, folder / "logs"))
            for one in list(running):
                if one.process.poll() is None:
                    continue
                running.remove(one)
                if one.process.returncode:
                    raise UserError(f"{one.name} failed: {_last_line(one.log)} (all of it: {one.log})")
                stamps |= one.fingerprints
                write_json(folder / "stamps.json", stamps)
                print(f"{one.name}: {time.monotonic() - one.started:.0f} s", flush=True)
            time.sleep(POLL_S if running else 0)
    finally:
        for one in running:
            one.ask()
        for one in running:
            one.end(min(GRACE_S, until - time.monotonic()))
    left = [step.name for one in running for step in one.steps]
    return left + [step.name for step in waiting if not _still_done(step, stamps)]


def _ready(step: Step, waiting: Sequence[Step], running: Sequence[Running]) -> bool:
    """Whether all that a step reads is there."""
    ahead = [other for one in running for other in one.steps] + list(waiting[: waiting.index(step)])
    return not any(step.follows(other) for other in ahead)


def _taken(
    step: Step, waiting: list[Step], running: Sequence[Running], stamps: Mapping[str, str], limit: int | None
) -> list[Step]:
    """Take a step, and those that its command can run too, from the waiting ones; those that are done are left out."""
    same = [other for other in waiting if step.together and other.together == step.together]
    chosen: list[Step] = []
    for one in [other for other in same if _ready(other, waiting, running)] or [step]:
        if limit is None or len(chosen) < limit:
            waiting.remove(one)
            if not one.done(stamps):
                chosen.append(one)
    return chosen


def _still_done(step: Step, stamps: Mapping[str, str]) -> bool:
    return all(Path(path).exists() for path in step.deps) and step.done(stamps)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _terminated(*_: Any) -> None:
    """On SIGTERM, leave as at an error: what runs is asked to end first."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> None:
    """Run the steps that are not done, for as long as the command line allows."""
    signal.signal(signal.SIGTERM, _terminated)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end within this time")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="run up to N commands at the same time")
    parser.add_argument(
        "--together", type=int, metavar="N", help="train up to N students in one process (default: all of a seed)"
    )
    parser.add_argument("--without", nargs="*", default=[], metavar="STAGE", help="skip these stages")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    pipeline = read_yaml(PIPELINE)["stages"]
    for name in arguments.without:
        if name not in pipeline:
            raise UserError(f"--without {name}: must be one of the stages in {PIPELINE} ({', '.join(pipeline)})")
    if arguments.at_once < 1 or (arguments.together is not None and arguments.together < 1):
        raise UserError("--at-once and --together must be at least 1")
    if 60 * arguments.minutes <= GRACE_S:
        raise UserError(f"--minutes must be more than {GRACE_S / 60:g}")
    chosen = {name: entry for name, entry in pipeline.items() if name not in arguments.without}
    everything = list(steps(chosen, read_yaml(PARAMS)))
    folder = machine.checkpoints() / "study"
    stamps = read_json(folder / "stamps.json") if (folder / "stamps.json").is_file() else {}
    left = execute(everything, stamps, folder, at_once=arguments.at_once, together=arguments.together, until=until)
    print(f"{len(everything) - len(left)} of {len(everything)} steps are done" + ("; left:" if left else ""), *left)
    if left:
        sys.exit(LEFT)


if __name__ == "__main__":
    run(main)
