"""Kill `dvc repro` at random moments of every stage, repeatedly, and check that nothing is lost.

    python -m tests.faults.kill --kills 100 --seed 0 --out reports/faults.json

One uninterrupted `dvc repro` in a copy of the repository is the reference. A round makes one stage run again, kills the
process group of `dvc repro` a few times, sometimes while a checkpoint is being written, simulates a full disk for the
stage, and then runs `dvc repro` to its end: it must succeed, and all outputs must equal the reference bit for bit.
It also checks that a checkpoint of other parameters is not used, and that two commands at the same time do no harm.
Nothing is recorded if any check fails.
"""

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.core.base.files import write_json
from stages.tools.provenance import hardware, versions

from .project import Command, Project

SMALL = ("recipe.epochs=2", "recipe.epoch_steps=8", "teacher.recipe.epochs=2", "teacher.recipe.epoch_steps=8")
SMALL = (*SMALL, "analysis.images_per_class=2", "seeds=[0,1]", "strategy=lift", "analysis.sep.permutations=5")
SMALL = (*SMALL, "analysis.sep.resamples=20")
TRAIN, OTHER = "train@0", "train@1"
TRAINING = ("teach@teacher", TRAIN)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EARLY = 0.1  # share of the kills before the stage starts, while DVC decides what to run
REMEDIES = {  # DVC's message when it was killed while writing its own files or git's index: the command that helps
    r"dvc\.lock' (is invalid|validation failed)": ("git", "restore", "dvc.lock"),
    r"Unable to read RWLock-file": ("rm", ".dvc/tmp/rwlock"),
    r"index\.lock'": ("rm", ".git/index.lock"),
}
FULL = "error: no space left on the disk for "
STOPPED = "; the same command resumes at step"
PACKAGES = ("dvc", "torch", "timm", "numpy")


class Harness:
    """Kills `dvc repro` of the whole pipeline or of one target in a project, and counts what happened."""

    def __init__(self, project: Project, seed: int, *target: str) -> None:
        self.project, self.random = project, random.Random(seed)
        self.repro = ("dvc", "repro", *target)
        self.kills: dict[str, Counter[str]] = {}
        self.moments: Counter[str] = Counter()
        self.saving = self.stopped = self.compared = 0
        self.needed: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Number of kills that hit a running process group."""
        return sum(counts.total() for counts in self.kills.values())

    def kill(
        self, stage: str, sent: signal.Signals | None = None, *, at: float | None = None, saving: bool = False
    ) -> None:
        """Start `dvc repro` and kill its process group at a random moment of a stage, or while a checkpoint is saved.

        Args:
            stage: the stage to kill; the next one that runs, where an earlier kill came after this one was complete.
            sent: the signal; default: a random one.
            at: the moment, as a share of the stage's duration in the reference, which includes DVC's saving of its
                outputs; with `saving`, the moment from which on a checkpoint is waited for. Default: random.
            saving: whether to kill while a checkpoint is being written.
        """
        command = self.project.start(*self.repro)
        stages = list(self.project.span_s)
        due = stages[stages.index(stage) :]
        if at is None and not saving and self.random.random() < EARLY:
            command.sleep(self.random.uniform(0.0, 1.0))
        elif command.wait(lambda: command.stage() in due):
            span_s = self.project.span_s[command.stage()]
            share = self.random.uniform(0.0, 0.5 if saving else 1.0) if at is None else at
            command.sleep(share * span_s)
            if saving:
                command.wait(lambda: self._frozen_while_saving(command), span_s)
        if not command.running():
            self._ended(command, stage)
            return
        sent = sent or self.random.choice(SIGNALS)
        self._note(command, sent)
        command.send(sent)
        command.send(signal.SIGCONT)
        command.finish()
        self.stopped += STOPPED in command.output
        half_written = self.project.half_written()
        assert not half_written, f"{stage}: {half_written} half-written after {sent.name}:\n{command.output}"

    def _frozen_while_saving(self, command: Command) -> bool:
        if not self.project.saving():
            return False
        command.send(signal.SIGSTOP)
        if self.project.saving():
            return True
        command.send(signal.SIGCONT)
        return False

    def _note(self, command: Command, sent: signal.Signals) -> None:
        """Freeze the processes, and count in which state the signal finds them."""
        command.send(signal.SIGSTOP)
        self.saving += self.project.saving()
        self.kills.setdefault(command.stage() or "before any stage", Counter())[sent.name] += 1
        self.moments["a stage computes" if command.computing() else "DVC looks, saves or records"] += 1

    def _ended(self, command: Command, stage: str) -> None:
        """Handle a command that ended before the kill: everything was complete, or DVC's own files are damaged."""
        if command.finish() == 0:
            self.project.forget(stage)
        else:
            self._mend(command)

    def _mend(self, command: Command) -> None:
        for pattern, words in REMEDIES.items():
            if re.search(pattern, command.output):
                self.needed[" ".join(words)] += 1
                self.project.run(*words)
                return
        raise AssertionError(command.output)

    def recover(self) -> None:
        """Run `dvc repro` to its end, and compare everything with the reference."""
        for _ in range(1 + len(REMEDIES)):
            command = self.project.start(*self.repro)
            if command.finish() == 0:
                break
            self._mend(command)
        assert command.process.returncode == 0, command.output
        self.compare()

    def compare(self) -> None:
        """Check that outputs equal the reference, and that killed processes have left no files behind."""
        found, reference = self.project.contents(), self.project.reference
        wrong = [name for name in {**found, **reference} if found.get(name) != reference.get(name)]
        assert not wrong, f"differs from an uninterrupted run: {sorted(wrong)}"
        assert not self.project.temporaries(), self.project.temporaries()
        assert not self.project.strange_checkpoints(), self.project.strange_checkpoints()
        self.compared += 1

    def fill_the_disk(self, stage: str) -> str:
        """The error line of a stage when no file may exceed half the size of its largest output."""
        # Loading processes share memory through files as well, and a batch exceeds the limit of a small output.
        variables = {} if stage in TRAINING else {"WORKERS": "0"}
        command = self.project.start(*self.repro, **variables)
        assert command.wait(lambda: command.stage() == stage), command.output
        command.limit_files(self.project.largest[stage] // 2)
        assert command.finish() != 0, command.output
        assert "Traceback" not in command.output, command.output
        assert not self.project.half_written(), self.project.half_written()
        assert not self.project.temporaries(), self.project.temporaries()
        return command.line(FULL)

    def two_repros(self, stage: str) -> str:
        """The error line of a second `dvc repro` while the first runs `stage`; the first must succeed."""
        first = self.project.start(*self.repro)
        assert first.wait(lambda: first.stage() == stage), first.output
        second = self.project.start(*self.repro)
        assert second.finish() != 0, second.output
        assert first.finish() == 0, first.output
        self.compare()
        return second.line("is busy").rpartition("/")[2]

    def two_trainings(self) -> str:
        """What the second of two processes that train the same students says; it takes the results of the first."""
        words = (sys.executable, "-m", "stages.train", "--seed", TRAIN.partition("@")[2])
        both = [self.project.start(*words) for _ in range(2)]
        assert [command.finish() for command in both] == [0, 0], [command.output for command in both]
        self.recover()
        return next(command.line("waiting for ") for command in both if "waiting for " in command.output)

    def two_runs(self) -> list[str]:
        """How two `dvc repro` of different runs end when started at the same time; `dvc repro` then makes the rest."""
        both = [self.project.start("dvc", "repro", stage) for stage in (TRAIN, OTHER)]
        outcomes = [
            "finished" if command.finish() == 0 else command.line("ERROR: ").replace(str(self.project.folder), "")
            for command in both
        ]
        self.recover()
        return outcomes

    def change_parameters(self) -> None:
        """Check that a training of another learning rate does not resume from the checkpoint of a stopped one."""
        changed = ("recipe.lr=0.001",)
        self.project.compose(*changed)
        self.project.run("dvc", "repro", TRAIN)
        uninterrupted = self.project.contents(TRAIN)
        assert uninterrupted != {name: self.project.reference[name] for name in uninterrupted}
        self.project.forget(TRAIN)
        self.project.compose()
        self.kill(TRAIN, signal.SIGTERM, at=0.0, saving=True)
        assert list(self.project.folder.glob(".ckpt/lift-mse-0-*/checkpoint.pt")), "nothing was saved"
        self.project.compose(*changed)
        self.project.run("dvc", "repro", TRAIN)
        assert self.project.contents(TRAIN) == uninterrupted, "a stale checkpoint was used"
        self.project.compose()
        self.project.forget(TRAIN)
        self.recover()


def watch(harness: Harness, kills: int) -> dict[str, Any]:
    """Kill `kills` times, all stages in turn, and once simulate a full disk for each; the error line of each stage."""
    full: dict[str, str] = {}
    while harness.total < kills:
        for stage in harness.project.span_s:
            if stage == OTHER or harness.total >= kills:
                continue
            harness.project.forget(stage)
            if stage not in full:
                full[stage] = harness.fill_the_disk(stage).replace(f"{harness.project.folder}/", "")
            for saving in [True] * 4 * (stage in TRAINING) + [False] * 3:
                harness.kill(stage, saving=saving)
            harness.recover()
            print(
                f"{harness.total} kills, {harness.saving} of them while a checkpoint was written; last stage: {stage}",
                flush=True,
            )
    return full


def main() -> None:
    """Run all checks, and record what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", SMALL)
        project.copy()
        project.refer()
        harness = Harness(project, asked.seed)
        print("reference:", {stage: round(seconds, 1) for stage, seconds in project.span_s.items()}, flush=True)
        full = watch(harness, asked.kills)
        project.forget(TRAIN)
        at_once = {"two dvc repro": harness.two_repros(TRAIN)}
        project.forget(TRAIN)
        at_once["two trainings of one run"] = harness.two_trainings()
        project.forget(TRAIN)
        project.forget(OTHER)
        at_once["two dvc repro of different runs"] = ", ".join(harness.two_runs())
        harness.change_parameters()
        record = {
            "kills": harness.total,
            "by_stage_and_signal": {stage: dict(sorted(counts.items())) for stage, counts in harness.kills.items()},
            "while": dict(harness.moments),
            "while_a_checkpoint_was_written": harness.saving,
            "stopped_with_a_checkpoint_first": harness.stopped,
            "recoveries_equal_to_the_reference": harness.compared,
            "needed_beyond_dvc_repro": dict(harness.needed),
            "left_elsewhere": project.left_elsewhere(),
            "full_disk": full,
            "two_at_once": at_once,
            "checkpoint_of_other_parameters": "not used",
            "seed": asked.seed,
            "command": f"python -m tests.faults.kill --kills {asked.kills} --seed {asked.seed}",
            "date": datetime.now(UTC).date().isoformat(),
            "minutes": round((time.monotonic() - started) / 60, 1),
            "hardware": hardware(),
            "versions": versions(PACKAGES),
        }
        print(record)
        if asked.out:
            write_json(asked.out, record)


if __name__ == "__main__":
    main()
