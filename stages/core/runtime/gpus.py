"""Whose a GPU is: claimed by a run for itself, and never shared by two processes of a run."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from stages.core.base.errors import UserError
from stages.core.base.ownership import try_lock

CLAIM_S = 5.0  # between two tries to claim devices
_held: list[IO[str]] = []  # lock files of claimed devices, open until the process ends


def claim(devices: Sequence[str], wanted: int, folder: Path) -> list[str]:
    """Claim devices for this process until it ends, so that runs started side by side use different ones.

    Args:
        devices: names of all devices that may be claimed.
        wanted: how many to claim; waits until so many are free.
        folder: for the lock files, one for each device.

    Raises:
        UserError: there are fewer devices than wanted, or the file system of `folder` has no locks.
    """
    if wanted > len(devices):
        raise UserError(f"GPUS={wanted}: there are {len(devices)} CUDA devices; use at most so many, or unset it")
    folder.mkdir(parents=True, exist_ok=True)
    announced = False
    while True:
        locks: dict[str, IO[str]] = {}
        for device in devices:
            if len(locks) < wanted:
                lock = try_lock(folder / device)
                if lock is not None:
                    locks[device] = lock
        if len(locks) == wanted:
            _held.extend(locks.values())
            return list(locks)
        for held in locks.values():
            held.close()
        if not announced:
            print(f"waiting for {wanted} of {len(devices)} CUDA devices to be free", file=sys.stderr)
            announced = True
        time.sleep(CLAIM_S)


def refuse_shared(devices: Sequence[str]) -> None:
    """Refuse several processes on one CUDA device, which NCCL does not support.

    Args:
        devices: the unique id of each process's device.

    Raises:
        UserError: two processes have the same device.
    """
    if len(set(devices)) < len(devices):
        raise UserError(
            f"{len(devices)} processes are on {len(set(devices))} CUDA devices; start one process for each device, "
            "or set DEVICE=cpu"
        )
