"""The short form of tests.faults.kill: a few kills of `dvc repro`, a full disk, two at once, in a temporary copy."""

import signal

import pytest
from faults.kill import TRAIN, Harness
from faults.project import Project

pytestmark = pytest.mark.pipeline

TINY = ("recipe.epochs=1", "recipe.epoch_steps=4", "teacher.recipe.epochs=1", "teacher.recipe.epoch_steps=1")
TINY = (*TINY, "seeds=[0]", "strategy=lift", "objective=mse")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """A project whose stages up to a training have run."""
    project = Project(tmp_path_factory.mktemp("faults") / "project", TINY, WORKERS="0")
    project.copy()
    project.refer(TRAIN)
    return Harness(project, 0, TRAIN)


def test_killed_runs_end_as_if_they_had_not_been(harness):
    harness.project.forget("prepare")
    harness.project.forget(TRAIN)
    harness.kill("prepare", sent=signal.SIGINT)
    harness.kill(TRAIN, sent=signal.SIGKILL, saving=True)
    harness.kill(TRAIN, sent=signal.SIGTERM)
    assert (harness.total, harness.saving) == (3, 1)
    harness.recover()


def test_a_full_disk_is_one_line_and_nothing_half_written(harness):
    said = harness.fill_the_disk(TRAIN)
    assert said.startswith("error: no space left on the disk for ") and said.endswith("give the command again")


def test_of_two_runs_at_once_the_second_says_so_and_the_first_ends_well(harness):
    assert harness.two_repros().endswith("is busy, it is being blocked by:")
