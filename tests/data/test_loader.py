"""Loading processes that die, starve or cannot be started: one line, and no waiting for ever."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from stages.core.base.errors import StoppedError, UserError
from stages.core.data.loader import Loader, waited_s
from stages.core.runtime import stopping


class Numbers(Dataset):
    """Numbers as tensors; `fault` is called before the item at position 2, in a loading process."""

    def __init__(self, fault=None):
        self.fault = fault

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2 and self.fault:
            time.sleep(0.2)  # the batches before it are fetched
            self.fault()
        return torch.tensor(index)


class Unsendable:
    """A batch that fails on its way from the loading process, as one does for which /dev/shm has no space."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def kill(number=signal.SIGKILL):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_torch_in_every_pass(workers):
    loader = Loader(Numbers(), workers=workers, batch_size=4, persistent_workers=workers > 0)
    for _ in range(2):
        for found, expected in zip(loader, DataLoader(Numbers(), batch_size=4), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (kill, r"^a loading process was killed \(SIGKILL\).*set WORKERS to less than 1, or to 0$"),
        (lambda: kill(signal.SIGBUS), r"^/dev/shm is too small for WORKERS=1 \(it has .* MB\): .*set WORKERS=0"),
        (lambda: kill(signal.SIGSEGV), r"^a loading process ended early \(SIGSEGV\)"),
        (lambda: os._exit(3), r"^a loading process ended early \(exit status 3\)"),
    ],
    ids=["killed", "bus error", "crash", "exit"],
)
def test_a_dead_worker_ends_the_run_where_a_batch_is_waited_for(fault, message):
    batches = iter(Loader(Numbers(fault), workers=1))
    assert [next(batches).item() for _ in range(2)] == [0, 1]
    time.sleep(0.5)  # it dies meanwhile: this code is not interrupted
    with pytest.raises(UserError, match=message):
        next(batches)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
            "/dev/shm",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    ],
)
def test_a_batch_that_cannot_be_sent_ends_the_run(error, message):
    with pytest.raises(UserError, match=f"{message}.*WORKERS=0") as caught:
        list(Loader(Numbers(), workers=1, collate_fn=lambda _: Unsendable(error)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm is too small for WORKERS=2 .*set WORKERS=0"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files for WORKERS=2; .*ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "2 loading processes cannot be started"),
        (MemoryError(), "set WORKERS to less than 2"),
    ],
)
def test_workers_that_cannot_be_started_are_one_line(monkeypatch, error, message):
    def refuse(_):
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", refuse)
    with pytest.raises(UserError, match=message):
        list(Loader(Numbers(), workers=2))
    with pytest.raises(type(error)):  # without loading processes, the error is not theirs
        list(Loader(Numbers(), workers=0))


def test_errors_of_the_images_pass_as_they_are():
    def fail(error):
        raise error

    for error in (UserError("image 2 is damaged"), ValueError("a bug")):
        with pytest.raises(type(error), match=str(error)):
            list(Loader(Numbers(lambda error=error: fail(error)), workers=1))


def test_sigterm_ends_a_wait_without_end(monkeypatch):
    def terminate_and_sleep():
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(stopping, "PATIENCE_S", 0.1)
    started = time.monotonic()
    with pytest.raises(StoppedError, match="stopped by SIGTERM while no batch came"), stopping.stops_deferred(waited_s):
        list(Loader(Numbers(terminate_and_sleep), workers=1))
    assert time.monotonic() - started < 30


def test_loading_processes_end_when_their_parent_says_so_alone(monkeypatch):
    def start_a_thread(_):  # as torch does in a worker where its parent has computed: a signal may come to any thread
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    monkeypatch.setattr(torch, "set_num_threads", start_a_thread)
    batches = Loader(Numbers(), workers=1)
    given = iter(batches)
    next(given)
    (worker,) = batches.processes
    sender = "import os, sys\nfor number in sys.argv[2:]:\n    os.kill(int(sys.argv[1]), int(number))"
    words = [str(worker.pid), *(str(int(number)) for number in stopping.STOPS)]
    subprocess.run([sys.executable, "-c", sender, *words], check=True)  # as SLURM signals all processes of a job
    assert len(list(given)) > 0 and worker.exitcode in (None, 0)
    given = iter(batches)
    next(given)
    (worker,) = batches.processes
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0
