import errno
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from stages.core.base import ownership
from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.base.files import atomic, sweep, write_text
from stages.core.base.ownership import process_space


@pytest.fixture
def killed():
    """A process that was killed and that its parent has not asked how it ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process


def temporary(folder, name, process, space=None):
    return folder / f".{name}.{space or process_space()}.{process}.tmp"


@pytest.mark.parametrize("reaped", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes(tmp_path, killed, reaped):
    if reaped:
        killed.wait()
    temporary(tmp_path, "a.json", killed.pid).write_text("half")
    folder = temporary(tmp_path, "b", killed.pid)
    folder.mkdir()
    (folder / "part").touch()
    write_text(tmp_path / "c.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_what_a_running_process_writes_is_left(tmp_path):
    with atomic(tmp_path / "a.json") as written:
        written.write_text("half")
        sweep(tmp_path)
        assert [*tmp_path.iterdir()] == [temporary(tmp_path, "a.json", os.getpid())]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_another_container_or_node_writes_is_left_until_it_has_not_changed_for_a_week(tmp_path, killed):
    killed.wait()  # no process of ours has this id, but one of theirs may
    folder = temporary(tmp_path, "out", killed.pid, "0123abcd")
    folder.mkdir()
    (part := folder / "layer_00.npy").write_text("half")
    (file := temporary(tmp_path, "a.json", killed.pid, "0123abcd")).write_text("half")
    old = time.time() - 8 * 86_400
    os.utime(folder, (old, old))  # what is inside still changes
    sweep(tmp_path)
    assert part.exists() and file.exists()
    for path in (part, folder, file):
        os.utime(path, (old, old))
    sweep(tmp_path)
    assert not any(tmp_path.iterdir())


def test_processes_are_told_apart_by_host_boot_and_pid_namespace(tmp_path, monkeypatch):
    (namespace := tmp_path / "pid").symlink_to("pid:[1]")
    (boot := tmp_path / "boot").write_text("1\n")
    changes = {
        "nothing": lambda: None,
        "another host": lambda: monkeypatch.setattr("socket.gethostname", lambda: "b"),
        "another boot": lambda: boot.write_text("2\n"),
        "another container": lambda: (namespace.unlink(), namespace.symlink_to("pid:[2]")),
        "another system": lambda: (namespace.unlink(), boot.unlink()),
    }
    monkeypatch.setattr("socket.gethostname", lambda: "a")
    monkeypatch.setattr(ownership, "BOOT_ID", boot)
    monkeypatch.setattr(ownership, "PID_NAMESPACE", namespace)
    found = []
    for change in changes.values():
        change()
        for cached in (ownership.machine, ownership.process_space):
            cached.cache_clear()
        found.append((ownership.machine(), ownership.process_space()))
    for cached in (ownership.machine, ownership.process_space):
        cached.cache_clear()
    machines, spaces = zip(*found, strict=True)
    assert len(set(spaces)) == len(changes)
    # another container on the same machine shares its GPUs
    assert machines[0] == machines[1] and machines[2] == machines[3] and len(set(machines)) == 3


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_system_that_does_not_sync_folders_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", failing(errno.EINVAL))
    write_text(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"
    monkeypatch.setattr("os.fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a", "lost")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "whole")]


def test_locks_are_held_by_one_and_a_file_system_without_them_is_one_line(tmp_path, monkeypatch):
    first = ownership.try_lock(tmp_path / "lock")
    assert first and ownership.try_lock(tmp_path / "lock") is None
    first.close()
    assert ownership.try_lock(tmp_path / "lock")
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
        monkeypatch.setattr("fcntl.flock", failing(number))
        with pytest.raises(
            UserError, match=r"lock cannot be locked \(.*\): its file system has no file locks; keep"
        ) as e:
            ownership.try_lock(tmp_path / "lock")
        assert "\n" not in str(e.value)


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
