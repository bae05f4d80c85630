"""The short form of tests.faults.kill: kills of `dvc repro`, a full disk and two at once, in a temporary copy."""

import signal

import pytest
from faults.kill import TRAIN, Harness
from faults.project import Project

pytestmark = pytest.mark.pipeline

TINY = ("recipe.epochs=1", "recipe.epoch_steps=4", "recipe.warmup_epochs=0", "seeds=[0]", "strategy=lift")
TINY = (*TINY, "objective=mse", "teacher.weights=random", "teacher.recipe=null")


def test_nothing_is_lost_by_a_full_disk_kills_and_a_second_command(tmp_path):
    project = Project(tmp_path / "project", TINY, WORKERS="0")
    project.copy()
    project.refer(TRAIN)
    harness = Harness(project, 0, TRAIN)
    project.forget(TRAIN)

    harness.kill(TRAIN, signal.SIGINT, at=0.2)
    said = harness.fill_the_disk(TRAIN)
    assert said.startswith("error: no space left on the disk for ") and said.endswith("give the command again")
    harness.kill(TRAIN, signal.SIGKILL, at=0.0, saving=True)
    harness.kill(TRAIN, signal.SIGTERM, at=0.0, saving=True)
    assert (harness.total, harness.saving, harness.stopped) == (3, 2, 1)
    assert harness.two_repros(TRAIN).endswith("is busy, it is being blocked by:")
    assert harness.compared == 1 and not harness.needed
