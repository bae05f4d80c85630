"""What this machine offers to a process: device, processes, loading workers, folders of local state.

Everything here follows from the environment (`stages.core.runtime.environment`) and the hardware, and changes no
result beyond rounding.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.base import ownership
from stages.core.base.errors import UserError
from stages.core.runtime import environment

if TYPE_CHECKING:
    import torch

FRESH_START = "FRESH_START"  # names a file that `launch` gives to its workers, see `fresh`
MOST_WORKERS = 32  # by default: each of them holds about half a GiB
# By default on CUDA devices: not before `tests/benchmarks/training.py --forms fused` has shown on one that it pays.
FUSED_TALKING_HEADS = False


def data_root() -> Path | None:
    """The folder that `DATA_ROOT` names, or None where it is unset."""
    return environment.read().data_root


def weights() -> Path | None:
    """The folder that `WEIGHTS` names, or None where it is unset."""
    return environment.read().weights


def device(local_rank: int = 0) -> "torch.device":
    """The torch device of a process: the one that `DEVICE` names, else the CUDA device of its rank, else the CPU.

    Raises:
        UserError: `DEVICE` is not a device, or the device cannot be used here.
    """
    import torch  # here, so that stages that only read paths stay fast

    requested = environment.read().device
    name = requested or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # SLURM may show each task its own devices alone, all of them counted from 0
        name = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        source = f"DEVICE={requested}" if requested else f"the device {name}"
        raise UserError(f"{source} cannot be used: {str(error).splitlines()[0]}") from None
    compute_float32_in_full()
    return chosen


def compute_float32_in_full() -> None:
    """Let CUDA compute what is float32 in float32, matrix products and convolutions alike.

    By default cuDNN's convolutions take TF32's 10 bits of mantissa: of the patch embedding, among others.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def processes() -> int:
    """How many processes `PROCESSES` asks for, or one per visible CUDA device unless `DEVICE` names one device.

    Raises:
        UserError: `PROCESSES` is not a count, or more than there are CUDA devices.
    """
    import torch

    settings = environment.read()
    cuda = torch.cuda.is_available() and settings.device in (None, "cuda")
    devices = torch.cuda.device_count() if cuda else 1
    wanted = settings.processes or devices
    if cuda and wanted > devices:
        raise UserError(f"PROCESSES={wanted}: there are {devices} CUDA devices; use 1 to {devices}, or unset it")
    return wanted


def gpus() -> int | None:
    """How many CUDA devices a run takes for itself, or None for every visible one."""
    return environment.read().gpus


def device_batch() -> int | None:
    """The most images that one process takes at a time, or None for no limit."""
    return environment.read().device_batch


def compiled(device: "torch.device", *, worthwhile: bool = True) -> bool:
    """Whether models are to be compiled for `device`: as `COMPILE` says, by default on CUDA devices if worthwhile.

    torch.compile calls a C++ compiler for the CPU, and a C compiler (through Triton) for CUDA devices.

    Args:
        device: where they compute.
        worthwhile: whether compilation, which takes minutes, saves more than it takes.

    Raises:
        UserError: `COMPILE=1` without such a compiler.
    """
    wanted = environment.read().compile
    if wanted is None and (device.type != "cuda" or not worthwhile):
        return False
    if wanted is not False and not _has_compiler(device):
        needs = "C compiler (gcc or clang, or the one that CC names)"
        if device.type == "cpu":
            needs = "C++ compiler (g++, or the one that CXX names)"
        if wanted:
            raise UserError(f"COMPILE=1 needs a {needs}; install one, or set COMPILE=0")
        print(f"warning: models are not compiled for want of a {needs}", file=sys.stderr)
        return False
    return wanted is not False


def _has_compiler(device: "torch.device") -> bool:
    if device.type == "cpu":
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
    else:
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    return any(map(shutil.which, names))


def fused_talking_heads(device: "torch.device", precision: "torch.dtype") -> bool:
    """Whether a frozen CaiT mixes its heads in one kernel: in half precision on CUDA, as `TALKING_HEADS` says.

    Args:
        device: where it computes.
        precision: of its matrix products; in float32 the kernel would do without the tensor cores.
    """
    wanted = environment.read().talking_heads
    fused = FUSED_TALKING_HEADS if wanted is None else wanted == "fused"
    return fused and device.type == "cuda" and precision.itemsize == 2


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """The number of image-loading processes: as `WORKERS` says, by default this process's cores but one.

    The core left is the main process's. A GPU takes more images a second than tens of cores decode and augment, so
    that the cores set the default; past 32 workers their memory, half a GiB each, costs more than they bring.
    """
    wanted = environment.read().workers
    return wanted if wanted is not None else max(1, min(MOST_WORKERS, _own_cores() - 1))


def _own_cores() -> int:
    """The CPU cores of this process, when several share the machine.

    SLURM may have bound each task to cores of its own, out of those that it gave the step.
    """
    shared = int(os.environ.get("SLURM_CPUS_ON_NODE", cores()))
    return max(1, min(cores(), shared // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def share_cores(device: "torch.device", loading: int | None = None) -> None:
    """Divide the cores between torch and the image-loading processes when torch computes on the CPU.

    torch keeps at least half of them, as it needs more than loading does.

    Args:
        device: where torch computes.
        loading: how many processes load images while it does; None for `workers`.
    """
    import torch

    if device.type == "cpu":
        own = _own_cores()
        torch.set_num_threads(max(1, own // 2, own - (workers() if loading is None else loading)))


def checkpoints() -> Path:
    """Where checkpoints of unfinished training live: outside every DVC output, in the main repository."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".ckpt"


def gpu_claims() -> Path:
    """Where runs claim this machine's GPUs: the containers of a machine share the folder, other nodes do not."""
    return checkpoints() / "gpus" / ownership.machine()


def listings() -> Path:
    """Where the listings of archives are kept, beside the checkpoints."""
    return checkpoints() / "listings"


def checkpoint_s() -> float:
    """Seconds between two checkpoints within an epoch."""
    return 60 * environment.read().checkpoint_minutes


def fresh() -> bool:
    """Whether `FRESH=1` asks to ignore the checkpoints of earlier commands.

    Those of this command are not ignored: by processes that torchrun or `launch` started again after one was killed,
    and by a job that SLURM started again.
    """
    if any(int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")):
        return False
    started = os.environ.get(FRESH_START)
    return environment.read().fresh and not (started and Path(started).exists())


def note_fresh_start() -> None:
    """Note that the checkpoints of earlier commands are gone, so that processes started again keep the newer ones."""
    if started := os.environ.get(FRESH_START):
        Path(started).touch()


def adopt() -> bool:
    """Whether `ADOPT=1` asks to resume from a checkpoint that other code or libraries wrote."""
    return environment.read().adopt
