"""FRESH=1 ignores the checkpoints of earlier commands, and keeps those of its own where processes start again."""

import os
import signal
from pathlib import Path

import pytest

from stages.core.runtime import machine
from stages.core.runtime.distributed import _worker, joined, launch
from stages.core.train.checkpoints import CheckpointFolder


def train_in_two_lives(root: Path) -> None:
    """Continue from the last checkpoint and save the next one; at the first one, rank 1 is killed."""
    with (
        joined() as world,
        CheckpointFolder(root, "run", {}, {}, fresh=machine.fresh(), writes=world.is_main) as folder,
    ):
        if world.is_main:
            machine.note_fresh_start()
        saved = folder.load() if world.is_main else None
        step = world.broadcast(saved["step"] + 1 if saved else 1)
        folder.save({"step": step})
        world.wait()
        if world.rank == 1 and step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.wait()


@pytest.mark.processes
def test_workers_that_start_again_go_on_from_the_new_checkpoint(tmp_path, monkeypatch):
    with CheckpointFolder(tmp_path, "run", {}, {}) as folder:
        folder.save({"step": 100})  # of an earlier command
    monkeypatch.setenv("PROCESSES", "2")
    monkeypatch.setenv("FRESH", "1")
    launch(train_in_two_lives, tmp_path)
    assert folder.load() == {"step": 2}


def test_a_command_is_fresh_until_it_has_started_over(tmp_path, monkeypatch):
    monkeypatch.setenv("FRESH", "1")
    monkeypatch.setenv(machine.FRESH_START, "")  # so that it is put back afterwards
    seen = []

    def work(started_over):
        seen.append(machine.fresh())
        if started_over:
            machine.note_fresh_start()

    for launched, started_over in (("a", False), ("a", True), ("a", True), ("b", True), ("b", False)):
        (tmp_path / launched).mkdir(exist_ok=True)
        _worker(tmp_path / launched / "fault", work, started_over)
    assert seen == [True, True, False, True, False]


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_job_that_was_started_again_goes_on(variable, monkeypatch):
    monkeypatch.delenv(machine.FRESH_START, raising=False)
    monkeypatch.setenv("FRESH", "1")
    assert machine.fresh()
    machine.note_fresh_start()  # nobody to tell: a process alone is not started again
    assert machine.fresh()
    monkeypatch.setenv(variable, "0")
    assert machine.fresh()
    monkeypatch.setenv(variable, "1")
    assert not machine.fresh()
    monkeypatch.setenv("FRESH", "0")
    monkeypatch.setenv(variable, "0")
    assert not machine.fresh()
