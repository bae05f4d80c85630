"""What belongs to the machine: read from the environment, never from params, never changing a result.

DATA_ROOT     folder of an external dataset; for hfds/NAME: of copies of datasets
WEIGHTS       folder of pretrained weights that the user brings
DEVICE        cpu, cuda or cuda:N; default: every visible CUDA device, else the CPU
PROCESSES     how many processes train or extract together; default: one per visible CUDA device
GPUS          how many of the visible CUDA devices a run takes for itself, waiting until so many are free; default: all
DEVICE_BATCH  the most images that a process takes at a time; default: its whole part of the global batch
COMPILE       1 or 0: whether torch.compile is used; default: on CUDA devices
WORKERS       image-loading processes of each process; default: its CPU cores but one, at most 8
CHECKPOINT_MINUTES  between two checkpoints within an epoch; default: 10
FRESH         1 or 0: whether the checkpoint of an interrupted run is ignored; default: 0
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.base import ownership
from stages.core.base.errors import UserError

if TYPE_CHECKING:
    import torch


def data_root() -> Path | None:
    """The folder that `DATA_ROOT` names, or None where it is unset."""
    value = os.environ.get("DATA_ROOT")
    return Path(value).expanduser() if value else None


def weights() -> Path | None:
    """The folder that `WEIGHTS` names, or None where it is unset."""
    value = os.environ.get("WEIGHTS")
    return Path(value).expanduser() if value else None


def device(local_rank: int = 0) -> "torch.device":
    """The torch device of a process: the one that `DEVICE` names, else the CUDA device of its rank, else the CPU.

    Raises:
        UserError: `DEVICE` names no device, or it cannot be used here.
    """
    import torch  # here, so that stages that only read paths stay fast

    asked = os.environ.get("DEVICE")
    if asked and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", asked, re.ASCII):
        raise UserError(f"DEVICE={asked} is no device to compute on; use cpu, cuda, cuda:0, cuda:1, …, or unset it")
    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # SLURM may show each task its own devices alone, all of them counted from 0
        name = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        told = f"DEVICE={asked}" if asked else f"the device {name}"
        raise UserError(f"{told} cannot be used: {str(error).splitlines()[0]}") from None
    return chosen


def processes() -> int:
    """How many processes `PROCESSES` asks for, or one per visible CUDA device unless `DEVICE` names one device.

    Raises:
        UserError: `PROCESSES` is not a count, or more than there are CUDA devices.
    """
    import torch

    cuda = torch.cuda.is_available() and (os.environ.get("DEVICE") or "cuda") == "cuda"
    devices = torch.cuda.device_count() if cuda else 1
    asked = _count("PROCESSES", devices)
    if asked == 0 or (cuda and asked > devices):
        raise UserError(f"PROCESSES={asked}: there are {devices} CUDA devices; use 1 to {devices}, or unset it")
    return asked


def gpus() -> int | None:
    """How many CUDA devices a run takes for itself, or None for every visible one.

    Raises:
        UserError: `GPUS` is not a count.
    """
    return _count("GPUS", 0) or None


def device_batch() -> int | None:
    """The most images that one process takes at a time, or None for no limit.

    Raises:
        UserError: `DEVICE_BATCH` is not a count.
    """
    return _count("DEVICE_BATCH", 0) or None


def compiled(device: "torch.device") -> bool:
    """Whether models are to be compiled for `device`.

    Raises:
        UserError: `COMPILE` is neither 0 nor 1.
    """
    return _flag("COMPILE", device.type == "cuda")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """The number of image-loading processes that `WORKERS` asks for.

    Raises:
        UserError: `WORKERS` is not a count.
    """
    return _count("WORKERS", max(1, min(8, _own_cores() - 1)))


def _own_cores() -> int:
    """The CPU cores of this process, when several share the machine.

    SLURM may have bound each task to cores of its own, out of those that it gave the step.
    """
    shared = int(os.environ.get("SLURM_CPUS_ON_NODE", cores()))
    return max(1, min(cores(), shared // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _count(name: str, default: int) -> int:
    value = os.environ.get(name)
    if not value:
        return default
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not a number; use 1, 2, …, or unset it")
    return int(value)


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name)
    if not value:
        return default
    if value not in ("0", "1"):
        raise UserError(f"{name}={value} is neither 0 nor 1; use one of them, or unset it")
    return value == "1"


def share_cores(device: "torch.device") -> None:
    """Leave the image-loading processes their cores when torch computes on the CPU too."""
    import torch

    if device.type == "cpu":
        torch.set_num_threads(max(1, _own_cores() - workers()))


def checkpoints() -> Path:
    """Where checkpoints of unfinished training live: outside every DVC output, in the main repository."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".ckpt"


def gpu_claims() -> Path:
    """Where runs on this machine claim its GPUs: the containers of a machine share the folder, other nodes do not."""
    return checkpoints() / "gpus" / ownership.machine()


def listings() -> Path:
    """Where the listings of archives are kept, beside the checkpoints."""
    return checkpoints() / "listings"


def checkpoint_s() -> float:
    """Seconds between two checkpoints within an epoch, from `CHECKPOINT_MINUTES`.

    Raises:
        UserError: `CHECKPOINT_MINUTES` is not a number.
    """
    value = os.environ.get("CHECKPOINT_MINUTES", "10")
    try:
        minutes = float(value)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise UserError(f"CHECKPOINT_MINUTES={value} is not a number of minutes; use 0, 0.5, 10, …, or unset it")
    return 60 * minutes


def fresh() -> bool:
    """Whether `FRESH=1` asks to ignore checkpoints.

    Raises:
        UserError: `FRESH` is neither 0 nor 1.
    """
    return _flag("FRESH", False)
