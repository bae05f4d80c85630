"""Train the students of params.yaml by jobs of a SLURM cluster, one for each seed: python -m stages.tools.submit.

A job that reaches its time limit, or is preempted, saves, queues again and goes on from there. Where there is no SLURM,
the jobs run on this machine, one after the other, or with --gpus as many at a time as there are GPUs for, and the
command waits for them. Jobs read params.yaml when they start. Afterwards `dvc repro` takes the finished students.
"""

import argparse
import contextlib
import importlib.util
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.base.errors import StoppedError, UserError, run
from stages.core.base.ownership import try_lock
from stages.core.config import params
from stages.core.runtime import machine
from stages.paths import PARAMS, TEACH

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

SAVE_S = 120  # that a job has to save before its time limit, unless that is more than half of the limit
KILL_S = 600  # for SLURM to end what it has asked to stop; its KillWait is 30 s by default
LIMITS = 1000  # how often a job may reach its time limit
LOCAL_MINUTES = 10 * 365 * 24 * 60  # submitit wants a time limit on this machine, too
POLL_S = 2.0  # between two looks at the jobs
NOISE = ("submitit ", "srun: ", "slurmstepd")  # begin lines of a log that are not the stage's
TERMINAL = {signal.SIGINT, signal.SIGHUP}  # what a terminal sends to all its processes
ENDED = "{}_ended"  # the file that says that a job has ended well


@dataclass
class Training:
    """A command of the stage `train` as submitit keeps and runs it: a child process, which can be asked to stop."""

    command: list[str]
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __call__(self) -> None:
        """Run the command, and leave a file if it ends well; else end with its exit status."""
        from submitit import JobEnvironment

        job = JobEnvironment()
        self.process = subprocess.Popen(self.command)
        if job.cluster == "local":  # SLURM signals all processes of a job itself
            signal.signal(signal.SIGTERM, lambda *_: self.process.terminate())
        status = self.process.wait()
        if status == os.EX_TEMPFAIL and job.cluster == "slurm":  # which ends this process, too, or queues the job again
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit passes over it
            time.sleep(KILL_S)
        if status:
            sys.exit(status if status > 0 else f"ended by {signal.Signals(-status).name}")
        if job.global_rank == 0:
            (job.paths.folder / ENDED.format(job.job_id)).touch()

    def checkpoint(self) -> "DelayedSubmission":
        """Let the command save and end; submitit queues what is returned."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        with contextlib.suppress(ChildProcessError):  # it has ended before
            # Its status is left to the `wait` that this interrupts, and whose lock another `wait` would need.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.command))


def queued() -> dict[str, str] | None:
    """The states of this folder's jobs that SLURM has not ended, by the jobs' names; None if SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%j|job %i: %T (%r)|%Z"]
    answer = subprocess.run(command, capture_output=True, text=True)
    rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
    here = {name: state.removesuffix(" (None)") for name, state, folder in rows if folder == str(Path.cwd())}
    return None if answer.returncode else here


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(NOISE)]
    return lines[-1] if lines else "nothing was printed"


def follow(jobs: "dict[str, Job[Any]]", slurm: bool) -> None:
    """Print the state and the last line of each job, by its name, whenever they change, until all have ended.

    Raises:
        UserError: jobs failed.
        StoppedError: a signal stopped this command, which stopped the local jobs.
    """
    said: dict[str, str] = {}
    failures, left, stopped = [], dict(jobs), False
    while left:
        time.sleep(POLL_S)
        if not slurm and not stopped and (stopped := bool(TERMINAL & signal.sigpending())):
            for job in left.values():
                os.kill(int(job.job_id), signal.SIGTERM)
        states = queued() if slurm else {name: "running" for name, job in left.items() if not job.done()}
        if states is None:
            continue
        for name, job in list(left.items()):
            log = job.paths.stdout
            line = _last_line(log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "")
            if name not in states:
                del left[name]
                # Network file systems may hide a new file for a while, but not from who lists its folder.
                if log.with_name(ENDED.format(job.job_id)) not in list(log.parent.iterdir()):
                    failures.append(f"{name} {'stopped' if stopped else 'failed'}: {line} (all of it: {log})")
                    continue
            if said.get(name) != (now := f"{states.get(name, 'has ended')}: {line}"):
                print(f"{name}: {now}", flush=True)
                said[name] = now
    if failures:
        raise (StoppedError if stopped else UserError)("; ".join(failures))


def options() -> argparse.Namespace:
    """What the command line asks for, and `slurm`, whether to ask SLURM for it.

    Raises:
        UserError: it cannot be had.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="of grid.runs in params.yaml (default: all)"
    )
    parser.add_argument("--split", type=int, default=1, metavar="N", help="divide the students of a seed among N jobs")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each node for a job")
    parser.add_argument("--cpus", type=int, default=0, metavar="N", help="CPU cores of each node for a job")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes that train together in a job")
    parser.add_argument("--hours", type=float, default=24.0, metavar="H", help="time limit of a job (default: 24)")
    parser.add_argument("--partition", metavar="NAME", help="of SLURM")
    parser.add_argument("--cluster", choices=["slurm", "local"], help="default: slurm where it is installed")
    parser.add_argument("--wait", action="store_true", help="show how the jobs get on until all have ended")
    given = parser.parse_args()
    for option, least in (("split", 1), ("gpus", 0), ("cpus", 0), ("nodes", 1), ("hours", 0.01)):
        if not getattr(given, option) >= least:
            raise UserError(f"--{option} {getattr(given, option)}: must be at least {least}")
    given.slurm = given.cluster != "local" and all(map(shutil.which, ("sbatch", "srun", "squeue")))
    if not given.slurm and (given.cluster == "slurm" or given.nodes > 1):
        raise UserError("there is no SLURM here (sbatch); submit where it is, or without --cluster and --nodes")
    if importlib.util.find_spec("submitit") is None:
        raise UserError("submitit is not installed; install it with pip install -e '.[cluster]'")
    return given


def commands(given: argparse.Namespace) -> dict[tuple[int, int], list[str]]:
    """The command of each job, by the seed and the part of its students from 1.

    Raises:
        UserError: a seed has no students, or there is no teacher.
    """
    words = [sys.executable, "-m", "stages.train"]
    if not given.slurm:  # submitit hides the GPUs from local jobs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = ["-u", "CUDA_VISIBLE_DEVICES"] if visible is None else [f"CUDA_VISIBLE_DEVICES={visible}"]
        words = ["env", *shown, *([f"GPUS={given.gpus}"] if given.gpus else []), *words]
    runs = params.load(PARAMS).grid.listed()
    found = {}
    for seed in given.seeds or sorted({one.seed for one in runs}):
        names = [one.name for one in runs if one.seed == seed]
        if not names:
            raise UserError(f"--seeds {seed}: {PARAMS} has no student of this seed in grid.runs")
        for part in range(parts := min(given.split, len(names))):
            only = ["--only", *names[part::parts]] if parts > 1 else []
            found[seed, part + 1] = [*words, "--seed", str(seed), *only]
    if not (TEACH / "model.safetensors").is_file():
        raise UserError("there is no teacher yet; make it with: dvc repro teach")
    return found


def submitted(given: argparse.Namespace, name: str, command: list[str], folder: Path) -> "Job[Any]":
    """A job that runs a command, with its log in `folder`.

    Raises:
        UserError: SLURM refuses it.
    """
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    minutes = math.ceil(60 * given.hours) if given.slurm else LOCAL_MINUTES
    tasks = max(1, given.gpus) if given.nodes > 1 else 1  # on one node the stage starts a process for each GPU itself
    cpus = given.cpus // tasks
    executor = AutoExecutor(folder, cluster="slurm" if given.slurm else "local", slurm_max_num_timeout=LIMITS)
    executor.update_parameters(
        name=name,
        timeout_min=minutes,
        nodes=given.nodes,
        tasks_per_node=tasks,
        gpus_per_node=given.gpus or None,
        cpus_per_task=cpus or None,
        stderr_to_stdout=True,
        slurm_partition=given.partition,
        slurm_signal_delay_s=min(SAVE_S, 30 * minutes),
        slurm_additional_parameters={"requeue": True},
        # A task that fails ends the others. How many cores sbatch was asked for, srun does not know.
        slurm_srun_args=["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])],
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises, too
            return executor.submit(Training(command))
    except FailedJobError as refused:
        raise UserError(f"{name}: {_last_line(str(refused))}") from None


def main() -> None:
    """Submit the jobs that the command line asks for; follow them if it says so, and on this machine."""
    given = options()
    todo = commands(given)
    folder = machine.checkpoints() / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    locks = {name: try_lock(folder / f"{name}.lock") for name in dict.fromkeys(f"seed-{seed}" for seed, _ in todo)}
    queue = (queued() or {}) if given.slurm else {}
    states = {name.partition(".")[0]: state for name, state in queue.items()}
    for name, lock in locks.items():  # held until this process ends
        if lock is None or name in states:
            raise UserError(f"{name} is submitted already ({states.get(name, 'by a command that still runs')})")
        shutil.rmtree(folder / name, ignore_errors=True)  # what earlier jobs left
    if not given.slurm:  # local jobs inherit this, so that `follow` alone can stop them
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    jobs: dict[str, Job[Any]] = {}
    for (seed, part), command in todo.items():
        name = f"seed-{seed}" + (f".{part}" if given.split > 1 else "")
        jobs[name] = submitted(given, name, command, folder / f"seed-{seed}")
        print(f"{name}: job {jobs[name].job_id}, log {jobs[name].paths.stdout}", flush=True)
        if not given.slurm and not given.gpus:
            follow({name: jobs[name]}, given.slurm)
    if given.wait or not given.slurm:
        follow(jobs, given.slurm)
    else:
        print("`squeue --me` shows them, `scancel` ends them; they have ended when it shows none")
    print("`dvc repro` then takes the finished students in seconds")


if __name__ == "__main__":
    run(main)
