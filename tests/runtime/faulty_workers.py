"""Entries of worker processes that fail or are stopped; apart from the tests, so that the processes import little."""

import os
import signal
import time
from pathlib import Path

from stages.core.base.errors import StoppedError, UserError
from stages.core.runtime.distributed import joined
from stages.core.runtime.stopping import stops_deferred


def refuse() -> None:
    with joined() as world:
        raise UserError(f"one line of {world.size}")


def crash() -> None:
    raise RuntimeError("a bug")


def save_when_asked(folder: Path, launcher: int, sent: signal.Signals) -> None:
    """Be asked to stop through the launcher; SIGINT comes to the workers as well, as from a terminal."""
    with joined() as world, stops_deferred() as asked:
        world.wait()
        if world.is_main:
            os.kill(launcher, sent)
        if sent == signal.SIGINT:
            os.kill(os.getpid(), sent)
            time.sleep(1)  # until it has come from the launcher too
        while (received := asked()) is None:
            time.sleep(0.01)
        time.sleep(world.rank)
        (folder / str(world.rank)).touch()
        world.wait()
        raise StoppedError(f"stopped by {received.name}; all of it is saved")


def insist(folder: Path, launcher: int) -> None:
    """Send the launcher two Ctrl-C, and heed none."""
    with joined() as world, stops_deferred():
        (folder / str(os.getpid())).touch()
        world.wait()
        if world.is_main:
            os.kill(launcher, signal.SIGINT)
            time.sleep(1)
            os.kill(launcher, signal.SIGINT)
        time.sleep(600)


def hang_up(launcher: int) -> None:
    """Hang the launcher up, with no checkpoint to save."""
    if os.environ["RANK"] == "0":
        os.kill(launcher, signal.SIGHUP)
    time.sleep(600)
