"""A DataLoader that never waits for ever: what befalls its loading processes ends the run with one line."""

import errno
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from stages.core.base.errors import UserError
from stages.core.runtime.stopping import end_with_parent, stops_blocked

SHARED_MEMORY = "/dev/shm"  # where Linux keeps what processes share: locks and batches
# What torch, multiprocessing and the system say of each cause.
SHARED_MEMORY_TEXT = re.compile(r"shared memory|shm|bus error", re.IGNORECASE)
OPEN_FILES_TEXT = re.compile(r"too many open files|items of ancdata", re.IGNORECASE)
DEAD_TEXT = re.compile(r"DataLoader worker|Pin memory thread|DataLoader timed out")


# Of an iterator whose processes could not be started: it is deleted without a traceback.
_MultiProcessingDataLoaderIter._shutdown = True


class Loader(DataLoader[Any]):
    """A DataLoader of which a dead, starved or refused loading process raises a `UserError`.

    Workers that cannot pass a batch on (/dev/shm is full, no file can be opened) send the error in its place; torch's
    own would print it and wait for ever. A worker's death is noticed while a batch is waited for, and never interrupts
    other code.

    Args:
        dataset: of images and labels.
        workers: loading processes; 0 loads in this process.
        options: of torch's DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, **options: Any) -> None:
        super().__init__(dataset, num_workers=workers, worker_init_fn=_start_worker, **options)
        self.processes: list[Any] = []  # those that load, once a pass over the batches has begun

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator around torch's iterator
        """One pass over the batches.

        Raises:
            UserError: the workers cannot be started, or one died or cannot pass a batch on.
        """
        kept = self.processes if self.persistent_workers else []
        with _waiting(self.num_workers, kept), stops_blocked():
            others = multiprocessing.active_children()
            batches = super().__iter__()  # torch starts a thread in a worker before `_start_worker` can block anything
            workers = [child for child in multiprocessing.active_children() if child not in others] or kept
        self.processes = workers
        while True:
            with _waiting(self.num_workers, workers):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


_waiting_since: list[float] = []  # when this process began to wait for a batch, while it does


def waited_s() -> float:
    """How long this process has been waiting for a batch, 0 if it is not."""
    return time.monotonic() - _waiting_since[-1] if _waiting_since else 0.0


@contextmanager
def _waiting(count: int, workers: Sequence[Any]) -> Iterator[None]:
    """Note that this process waits for a batch, and turn what befalls its workers meanwhile into a `UserError`.

    Args:
        count: how many workers there are to be; without any, nothing is caught.
        workers: their handles, once there are any.
    """
    _waiting_since.append(time.monotonic())
    try:
        with _deaths_noticed(workers):
            yield
    except UserError:
        _kill(workers)
        raise
    except (OSError, EOFError, RuntimeError, MemoryError) as error:
        if not count:
            raise
        if isinstance(error, OSError | EOFError) and workers:  # one that died may not be known to be dead yet
            multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1)
        message = _explanation(error, count, [worker.exitcode for worker in workers])
        if message is None:
            raise
        _kill(workers)
        raise UserError(message) from None
    finally:
        _waiting_since.pop()


@contextmanager
def _deaths_noticed(workers: Sequence[Any]) -> Iterator[None]:
    """Raise a RuntimeError where a worker is dead or dies, at once; torch would take up to five seconds.

    Torch's own handler of SIGCHLD, which would raise it in whatever code happens to run later, is undone.
    """

    def check(*_: Any) -> None:
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("DataLoader worker exited unexpectedly")

    check()
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = signal.signal(signal.SIGCHLD, check)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _start_worker(_: int) -> None:
    """Prepare a loading process.

    It ends when its parent does or says so, not when a signal comes to the parent's whole group or to all processes of
    a SLURM job, so that a training process that is asked to stop can save first: it was started with `STOPS` blocked.
    """
    os.setpgid(0, 0)
    end_with_parent(signal.SIGKILL)
    if sys.platform == "linux":
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    # The queue's own hook for a batch that cannot be sent, which would print the error and drop the batch.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _end_when_told(parent: int) -> None:
    """End this process once its parent sends SIGTERM, as torch does to one that does not end by itself."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _send_error(queue: Any, _: Exception, item: Any) -> None:
    """Send the error that is being handled in place of the batch that cannot be sent."""
    if not isinstance(item, tuple):  # the pipe is broken: this process cannot say anything
        os._exit(1)
    queue.put((item[0], ExceptionWrapper(where="in a loading process")))


def _kill(workers: Sequence[Any]) -> None:
    """End loading processes at once; torch would wait five seconds for each that is busy."""
    for worker in workers:
        worker.kill()


def _explanation(error: Exception, count: int, codes: Sequence[int | None]) -> str | None:
    """What a user can do about an error of loading processes, or None if it is not of their kind."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    killed = {-code for code in codes if code is not None and code < 0}
    if signal.SIGBUS in killed or number == errno.ENOSPC or SHARED_MEMORY_TEXT.search(text):
        return (
            f"{SHARED_MEMORY} is too small for WORKERS={count}{_shared_memory()}: loading processes pass batches "
            "through it; set WORKERS=0, or enlarge it (of a container: docker run --shm-size=1g)"
        )
    if number == errno.EMFILE or OPEN_FILES_TEXT.search(text):
        return f"too many open files for WORKERS={count}; raise the limit (ulimit -n 65536), or set WORKERS=0"
    if isinstance(error, MemoryError):
        return f"a loading process is out of memory; set WORKERS to less than {count}, or to 0"
    if signal.SIGKILL in killed:
        return (
            "a loading process was killed (SIGKILL), by the system if memory ran out; set WORKERS to less than "
            f"{count}, or to 0"
        )
    if any(codes) or DEAD_TEXT.match(text) or isinstance(error, ConnectionError | FileNotFoundError | EOFError):
        statuses = [f"exit status {code}" for code in codes if code]
        names = [signal.Signals(number).name for number in sorted(killed)]
        reason = ", ".join(names or statuses) or text or type(error).__name__
        return f"a loading process ended early ({reason}); what it printed says why; WORKERS=0 needs none"
    if not codes:
        return f"{count} loading processes cannot be started ({text}); set WORKERS to less, or to 0"
    return None


def _shared_memory() -> str:
    """The size of /dev/shm, for a message."""
    try:
        return f" (it has {shutil.disk_usage(SHARED_MEMORY).total / 1e6:.3g} MB)"
    except OSError:
        return ""
