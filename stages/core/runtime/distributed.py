"""Several processes, one result: one per visible GPU, or the workers of a rendezvous that already exists.

Their number belongs to the machine and changes no result beyond rounding.
"""

import json
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.multiprocessing import ProcessExitedException, start_processes

from stages.core.base.errors import StoppedError, UserError, known_errors_reported
from stages.core.runtime import machine
from stages.core.runtime.gpus import claim, refuse_shared
from stages.core.runtime.stopping import end_with_parent, stops_blocked, stops_deferred, unblock_stops

RESTARTS = 3  # of all workers, when one is killed
START_METHOD = "spawn"  # of workers: CUDA cannot be used in a fork
WATCH_S = 0.1  # between two looks at whether to stop the workers
GRACE_S = 10.0  # for the other workers, when one has ended; then they are asked to end, and then killed
ANNOUNCED_S = 5.0  # of waiting for other processes, before a line says so


@dataclass(frozen=True)
class World:
    """The processes that compute one result together.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        device: where this process computes.
        control: the process group for messages between the processes' CPUs; None for the default group.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes files and prints."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The indices of this process's part of `total` items: consecutive; sizes differ by at most one."""
        return range(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, values: Sequence[bool]) -> list[bool]:
        """For each of some flags, whether it is true in any process; every process gets the same list.

        The flags pass between CPUs, so that no process waits for its GPU.
        """
        if self.size == 1:
            return list(values)
        flags = torch.tensor(values, dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control)
        return flags.bool().tolist()

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all processes in the order of their ranks, joined along the first dimension."""
        if self.size == 1:
            return values
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, values.cpu())
        return torch.cat(parts)

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, which must be picklable."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Return once every process has called this."""
        if self.size > 1:
            dist.barrier()


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, through which gradients flow back to each of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    return all_reduce(values) / dist.get_world_size()


def launch(entry: Callable[..., None], *arguments: Any) -> None:
    """Run `entry` in this process, or in one worker process per visible GPU (or as many as PROCESSES says).

    A process that torchrun or srun started is a worker already, and starts none. When a worker is killed, all are
    restarted, and `entry` goes on from its last checkpoint.

    Args:
        entry: a function of a module, which calls `joined` to join the other processes.
        arguments: of `entry`; must be picklable.

    Raises:
        UserError: a worker raised one, or workers keep dying.
    """
    _check_rendezvous()
    _adopt_slurm()
    if "RANK" not in os.environ and (wanted := machine.gpus()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        devices = [name for name in visible if name] or list(map(str, range(torch.cuda.device_count())))
        claimed = claim(devices, wanted, machine.gpu_claims())
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
    processes = 1 if "RANK" in os.environ else machine.processes()
    if processes == 1:
        entry(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder, stops_deferred() as asked:
        fault = Path(folder) / "fault"
        for left in reversed(range(RESTARTS + 1)):
            try:
                _work_together(processes, asked, fault, entry, *arguments)
                return
            except ProcessExitedException as failed:
                if fault.is_file():
                    text, stopped = json.loads(fault.read_text())
                    raise (StoppedError if stopped else UserError)(text) from None
                if number := asked():
                    raise StoppedError(f"stopped by {number.name}; the last checkpoint is kept") from None
                ended = f"worker {failed.error_index} of {processes} ended with exit status {failed.exit_code}"
            print(f"warning: {ended}; {left} restarts are left", file=sys.stderr)
    raise UserError(f"{ended}, after {RESTARTS} restarts; what it printed says why; the last checkpoint is kept")


def _work_together(
    processes: int, asked: Callable[[], signal.Signals | None], fault: Path, entry: Callable[..., None], *arguments: Any
) -> None:
    """Run `entry` in so many workers, to which a signal that asks this process to stop is passed on.

    Raises:
        ProcessExitedException: of the first worker that ended otherwise than well; none is left.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # where they find each other
    together = (processes, store.port, fault, entry, *arguments)
    with stops_blocked():
        workers = start_processes(_join_and_work, together, processes, join=False, start_method=START_METHOD)
    told = None
    try:
        while not workers.join(WATCH_S, GRACE_S):
            if told is None and (told := asked()):
                for pid in workers.pids():
                    with suppress(ProcessLookupError):
                        os.kill(pid, told)
    finally:
        for worker in workers.processes:
            worker.kill()


def _join_and_work(rank: int, size: int, port: int, fault: Path, entry: Callable[..., None], *arguments: Any) -> None:
    """Be one of the workers that `_work_together` starts, with torchrun's environment."""
    end_with_parent(signal.SIGTERM)
    of_all = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    names = {"RANK": rank, "LOCAL_RANK": rank, **of_all, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ |= {name: str(value) for name, value in names.items()}
    try:
        unblock_stops()
        _worker(fault, entry, *arguments)
    except KeyboardInterrupt:
        sys.exit(130)


def _worker(fault: Path, entry: Callable[..., None], *arguments: Any) -> None:
    os.environ[machine.FRESH_START] = str(fault.with_name("fresh"))
    try:
        with known_errors_reported():
            entry(*arguments)
    except UserError as error:
        if not fault.exists():
            fault.write_text(json.dumps([str(error), isinstance(error, StoppedError)]))
        sys.exit(1)
    except Exception:
        if not fault.exists():  # else it follows from the other worker's
            traceback.print_exc()
        sys.exit(1)


def _check_rendezvous() -> None:
    """Refuse what torchrun, srun or a job script left half set.

    Raises:
        UserError: a variable is not a number, or one that goes with it is missing.
    """
    numbers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    given = {name: os.environ[name] for name in numbers if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise UserError(f"{name}={value} is not a number; unset it, or start several processes by torchrun or srun")
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if (int(given.get("WORLD_SIZE", "1")) > 1 and missing) or ("RANK" in given and "WORLD_SIZE" not in given):
        found = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UserError(f"{found} is set, but not {', '.join(missing)}; start by torchrun or srun, or unset it")


@contextmanager
def _waiting_said(size: int) -> Iterator[None]:
    """Say for how many processes this one waits, and where, if they have not come within seconds."""
    place = f"host {os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}"
    said = f"waits until all of {size} processes have started ({place})"
    timer = threading.Timer(ANNOUNCED_S, print, [said], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    except (dist.DistError, ValueError) as error:
        raise UserError(f"{size} processes do not come together ({place}): {str(error).splitlines()[0]}") from None
    finally:
        timer.cancel()


def _adopt_slurm() -> None:
    """Set torch.distributed's environment variables from those of a SLURM step of several tasks."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in os.environ or tasks == 1:
        return
    # The first host of "node[03-07,12],login1" is node03.
    hosts = os.environ["SLURM_STEP_NODELIST"]
    first = re.sub(r"\[(\w+).*", r"\1", hosts) if "[" in hosts.split(",")[0] else hosts.split(",")[0]
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_here(tasks)),
        "WORLD_SIZE": str(tasks),
    }
    os.environ.setdefault("MASTER_ADDR", first)
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000))


def _tasks_here(tasks: int) -> int:
    """How many of a SLURM step's tasks run on this machine."""
    shape = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_NTASKS_PER_NODE") or str(tasks)
    # "4(x2),3" is three nodes: two of four tasks, one of three
    nodes = [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", shape) for _ in range(int(times or 1))]
    return nodes[min(int(os.environ.get("SLURM_NODEID", "0")), len(nodes) - 1)]


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes, if there are any, within the `with` block.

    Raises:
        UserError: this process's device cannot be used, or another process uses it too.
    """
    rank, size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    device = machine.device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no device (a Triton kernel, a synchronisation) means this one
    if size == 1:
        yield World(0, 1, device)
        return
    machine.share_cores(device)
    with _waiting_said(size):
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control: Any = None
    if device.type == "cuda":
        control = dist.new_group(backend="gloo")
        devices: list[Any] = [None] * size
        dist.all_gather_object(devices, str(torch.cuda.get_device_properties(device).uuid), group=control)
        refuse_shared(devices)
    yield World(rank, size, device, control)
    dist.destroy_process_group()
