"""Stages killed at random moments, and full disks, in a temporary copy: the short form of tests.faults.kill."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, root: Path) -> object:
    spec = importlib.util.spec_from_file_location("kill", root / "tests/faults/kill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.Harness(tmp_path_factory.mktemp("faults") / "project", seed=0)
    made.copy()
    made.refer(["prepare", "teach", "extract", "svd", "train"])
    return made


@pytest.mark.parametrize("stage", ["prepare", "svd", "train"])
def test_killed_stages_end_as_if_they_had_not_been(harness, stage):
    harness.clear(stage)
    for _ in range(2):
        harness.kill(stage)
    harness.recover(stage)


@pytest.mark.parametrize(("stage", "limit"), [("extract", 10_000), ("train", 100_000)])
def test_a_full_disk_is_one_line_and_nothing_half_written(harness, stage, limit):
    assert harness.fill_the_disk(stage, limit).startswith("error: no space left on the disk for ")
    harness.recover(stage)
