"""Kill `dvc repro` at random moments of every stage, again and again, and see that nothing is lost.

    python -m tests.faults.kill --kills 100 --seed 0 --out reports/faults.json

In a copy of the repository one uninterrupted `dvc repro` is the reference. A round makes one stage compute anew, kills
the process group of `dvc repro` a few times, some of them while a checkpoint is written, fills the disk under the
stage, and then gives `dvc repro` once more: it has to finish, and all outputs to equal the reference bit for bit.
Besides: a checkpoint of other parameters is not used, and two commands at once do no harm. Nothing is recorded when
anything fails.
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
SMALL = (*SMALL, "analysis.images_per_class=2", "seeds=[0]", "strategy=lift", "analysis.sep.permutations=5")
SMALL = (*SMALL, "analysis.sep.resamples=20")
TRAIN, OTHER = "train@lift-mse-0", "train@lift-none-0"
TRAINING = ("teach", TRAIN)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EARLY = 0.1  # share of the kills before the stage starts, while DVC looks for what to do
REMEDIES = {  # what DVC says when it was killed while it wrote its own files or git's index, and what helps
    r"dvc\.lock' (is invalid|validation failed)": ("git", "restore", "dvc.lock"),
    r"Unable to read RWLock-file": ("rm", ".dvc/tmp/rwlock"),
    r"index\.lock'": ("rm", ".git/index.lock"),
}
FULL = "error: no space left on the disk for "
STOPPED = "stopped by SIGTERM; the same command resumes at step"
PACKAGES = ("dvc", "torch", "timm", "numpy")


class Harness:
    """Kills `dvc repro`, of the whole pipeline or of a target, in a project, and counts what was seen."""

    def __init__(self, project: Project, seed: int, *target: str) -> None:
        self.project, self.random = project, random.Random(seed)
        self.repro = ("dvc", "repro", *target)
        self.kills: dict[str, Counter[str]] = {}
        self.moments: Counter[str] = Counter()
        self.saving = self.stopped = self.compared = 0
        self.needed: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Kills that met a running process group."""
        return sum(counts.total() for counts in self.kills.values())

    def kill(
        self, stage: str, sent: signal.Signals | None = None, *, at: float | None = None, saving: bool = False
    ) -> None:
        """Start `dvc repro` and kill its process group at a random moment of a stage, or while a checkpoint is saved.

        `at` is the moment as a share of the stage's usual time, or the one from which on a checkpoint is waited for.
        A stage's time ends when DVC has saved its outputs and written dvc.lock. Where an earlier kill came after that,
        the moment is one of the next stage that runs.
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
        self.stopped += STOPPED in command.said
        half_written = self.project.half_written()
        assert not half_written, f"{stage}: {half_written} half-written after {sent.name}:\n{command.said}"

    def _frozen_while_saving(self, command: Command) -> bool:
        if not self.project.saving():
            return False
        command.send(signal.SIGSTOP)
        if self.project.saving():
            return True
        command.send(signal.SIGCONT)
        return False

    def _note(self, command: Command, sent: signal.Signals) -> None:
        """Freeze the processes, and count where the signal finds them."""
        command.send(signal.SIGSTOP)
        self.saving += self.project.saving()
        self.kills.setdefault(command.stage() or "before any stage", Counter())[sent.name] += 1
        self.moments["a stage computes" if command.computing() else "DVC looks, saves or records"] += 1

    def _ended(self, command: Command, stage: str) -> None:
        """A command that ended before it was killed: all was complete already, or DVC's own files are damaged."""
        if command.finish() == 0:
            self.project.forget(stage)
        else:
            self._mend(command)

    def _mend(self, command: Command) -> None:
        for pattern, words in REMEDIES.items():
            if re.search(pattern, command.said):
                self.needed[" ".join(words)] += 1
                self.project.run(*words)
                return
        raise AssertionError(command.said)

    def recover(self) -> None:
        """Give `dvc repro` once more, and compare everything with the reference."""
        for _ in range(1 + len(REMEDIES)):
            command = self.project.start(*self.repro)
            if command.finish() == 0:
                break
            self._mend(command)
        assert command.process.returncode == 0, command.said
        self.compare()

    def compare(self) -> None:
        """Check that outputs equal the reference, and that nothing is left of what was killed."""
        found, reference = self.project.contents(), self.project.reference
        wrong = [name for name in {**found, **reference} if found.get(name) != reference.get(name)]
        assert not wrong, f"other than in an uninterrupted run: {sorted(wrong)}"
        assert not self.project.temporaries(), self.project.temporaries()
        assert not self.project.strange_checkpoints(), self.project.strange_checkpoints()
        self.compared += 1

    def fill_the_disk(self, stage: str) -> str:
        """What a stage says when no file may have more than half of the bytes of its largest output."""
        alone = (
            {} if stage in TRAINING else {"WORKERS": "0"}
        )  # their shared memory is files, too: too small for a batch
        command = self.project.start(*self.repro, **alone)
        assert command.wait(lambda: command.stage() == stage), command.said
        command.limit_files(self.project.largest[stage] // 2)
        assert command.finish() != 0, command.said
        assert "Traceback" not in command.said, command.said
        assert not self.project.half_written(), self.project.half_written()
        assert not self.project.temporaries(), self.project.temporaries()
        return command.line(FULL)

    def two_repros(self, stage: str) -> str:
        """What a second `dvc repro` says while a first runs a stage that is due; the first ends well."""
        first = self.project.start(*self.repro)
        assert first.wait(lambda: first.stage() == stage), first.said
        second = self.project.start(*self.repro)
        assert second.finish() != 0, second.said
        assert first.finish() == 0, first.said
        self.compare()
        return second.line("is busy").rpartition("/")[2]

    def two_trainings(self) -> str:
        """What the second of two processes that train the same run says; the first ends well."""
        _, strategy, objective, seed = TRAIN.replace("@", "-").split("-")
        words = (sys.executable, "-m", "stages.train", "--strategy", strategy, "--objective", objective, "--seed", seed)
        both = [self.project.start(*words) for _ in range(2)]
        statuses = [command.finish() for command in both]
        assert sorted(statuses) == [0, 1], [command.said for command in both]
        self.recover()
        return both[statuses.index(1)].line("error: ")

    def two_runs(self) -> list[str]:
        """How two `dvc repro` of different runs end that are started at once; then `dvc repro` makes the rest."""
        both = [self.project.start("dvc", "repro", stage) for stage in (TRAIN, OTHER)]
        said = [
            "finished" if command.finish() == 0 else command.line("ERROR: ").replace(str(self.project.folder), "")
            for command in both
        ]
        self.recover()
        return said

    def change_parameters(self) -> None:
        """Stop a training, which saves first, and see that one of another learning rate does not go on from there."""
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
    """Kill as often as asked, over all stages in turn; on the first turn fill the disk under each, too."""
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
                f"{harness.total} kills, {harness.saving} in the saving of a checkpoint, the last of {stage}",
                flush=True,
            )
    return full


def main() -> None:
    """Kill as often as asked, over all stages, and write what was seen."""
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
