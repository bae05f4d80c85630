"""What belongs to the machine: read from the environment, never from params, never changing a result.

DATA_ROOT   folder of an external dataset; for hfds/NAME: of copies of datasets
DEVICE      torch device; default: the first CUDA device, else the CPU
WORKERS     image-loading processes; default: one fewer than the CPU cores, at most 8
FRESH       1: ignore the checkpoint of an interrupted run
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import UserError

if TYPE_CHECKING:
    import torch


def data_root() -> Path | None:
    """The folder that `DATA_ROOT` names, or None where it is unset."""
    value = os.environ.get("DATA_ROOT")
    return Path(value).expanduser() if value else None


def device() -> "torch.device":
    """The torch device that `DEVICE` names.

    Raises:
        UserError: there is no such device here.
    """
    import torch  # here, so that stages that only read paths stay fast

    name = os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"DEVICE={name} cannot be used: {str(error).splitlines()[0]}") from None
    return chosen


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """The number of image-loading processes that `WORKERS` asks for.

    Raises:
        UserError: `WORKERS` is not a count.
    """
    value = os.environ.get("WORKERS")
    if value is None:
        return max(1, min(8, cores() - 1))
    if not value.isdecimal():
        raise UserError(f"WORKERS={value} is not a number of processes; use 0, 1, 2, …")
    return int(value)


def share_cores(device: "torch.device") -> None:
    """Leave the image-loading processes their cores when torch computes on the CPU too."""
    import torch

    if device.type == "cpu":
        torch.set_num_threads(max(1, cores() - workers()))


def checkpoints() -> Path:
    """Where checkpoints of unfinished training live: outside every DVC output, in the main repository."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".ckpt"


def listings() -> Path:
    """Where the listings of archives are kept, beside the checkpoints."""
    return checkpoints() / "listings"


def fresh() -> bool:
    """Whether `FRESH=1` asks to ignore checkpoints."""
    return os.environ.get("FRESH", "") not in ("", "0")
