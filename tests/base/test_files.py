import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.base.files import atomic, sweep, write_text


@pytest.fixture
def killed():
    """A process that was killed and that its parent has not asked how it ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process


@pytest.mark.parametrize("reaped", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes(tmp_path, killed, reaped):
    if reaped:
        killed.wait()
    (tmp_path / f".a.json.{killed.pid}.tmp").write_text("half")
    (tmp_path / f".b.{killed.pid}.tmp").mkdir()
    (tmp_path / f".b.{killed.pid}.tmp/part").touch()
    write_text(tmp_path / "c.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_what_a_running_process_writes_is_left(tmp_path):
    with atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f".a.json.{os.getpid()}.tmp"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", [1, 2], ids=["contiguous", "not contiguous"])
def test_an_array_that_the_disk_does_not_hold_is_told(tmp_path, step):
    write_npy(tmp_path / "a.npy", np.arange(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"^no space left on the disk for .*a.npy; free some"):
            write_npy(tmp_path / "a.npy", np.zeros((100, 200))[:, ::step])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
