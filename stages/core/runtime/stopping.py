"""Being asked to stop by a signal: a training saves a checkpoint first, and what started it passes the signal on."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stages.core.base.errors import StoppedError

# Of schedulers and `kill`; of Ctrl-C, a closed terminal and Ctrl-\; of SLURM's --signal, submitit and time limits.
STOPS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends
PATIENCE_S = 20.0  # for a batch, once a signal has come: SLURM and torchrun kill after 30 s


@contextmanager
def stops_deferred(waited_s: Callable[[], float] = lambda: 0.0) -> Iterator[Callable[[], signal.Signals | None]]:
    """Defer the signals of `STOPS`, and yield a function that returns the first one that has come, or None.

    A signal that is ignored from the start stays so, as SIGHUP under nohup. A second Ctrl-C ends the block at once, by
    a KeyboardInterrupt; not in a process that torchrun, srun or `launch` started: they pass on what the terminal has
    sent to the whole process group already, and end their workers themselves.

    Args:
        waited_s: how long this process has been waiting for a batch, 0 if it is not.

    Raises:
        StoppedError: nobody acted on a signal by the end of the block; or it came while the process waits for a batch
            that does not come, after `PATIENCE_S` of waiting.
    """
    received: list[signal.Signals] = []
    watched = "RANK" in os.environ

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and number in received and not watched:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))
        signal.alarm(1)

    def end_a_long_wait(*_: Any) -> None:
        if waited_s() > PATIENCE_S:
            raise StoppedError(f"stopped by {received[0].name} while no batch came; the last checkpoint is kept")
        signal.alarm(1)

    handlers = {number: note for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN}
    before = {
        number: signal.signal(number, handler)
        for number, handler in ({signal.SIGALRM: end_a_long_wait} | handlers).items()
    }
    try:
        yield lambda: received[0] if received else None
    finally:
        signal.alarm(0)
        for number, previous in before.items():
            signal.signal(number, previous)
    if received:
        raise StoppedError(f"stopped by {received[0].name}; the same command goes on from what is saved")


@contextmanager
def stops_blocked() -> Iterator[None]:
    """Block the signals of `STOPS` for processes that are started within the block, until they call `unblock_stops`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(number: int) -> None:
    """Send this process a signal when the one that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def unblock_stops() -> None:
    """Receive the signals of `STOPS` from now on, and those that came while they were blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
