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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import StoppedError, UserError, run
from stages.core.base.ownership import try_lock
from stages.core.config import params
from stages.core.runtime import machine
from stages.paths import PARAMS, TEACH

SAVE_S = 120  # that a job has to save before its time limit
KILL_S = 600  # for SLURM to end what it has asked to stop; its KillWait is 30 s by default
UNLIMITED = 10**6  # how often a job may reach its time limit; on this machine, minutes until then
POLL_S = 2.0  # between two looks at the jobs
NOISE = ("submitit ", "srun: ", "slurmstepd")  # begin lines of a log that are not the stage's
TERMINAL = {signal.SIGINT, signal.SIGHUP}  # what a terminal sends to all its processes


@dataclass
class Training:
    """A command of the stage `train` as submitit keeps and runs it: a child process, which can be asked to stop."""

    command: list[str]

    def __call__(self) -> None:
        """Run the command, and end with its exit status unless that is 0: then alone submitit writes a result."""
        self.process = subprocess.Popen(self.command)
        signal.signal(signal.SIGTERM, lambda *_: self.process.terminate())
        status = self.process.wait()
        if status == os.EX_TEMPFAIL and os.environ["SUBMITIT_EXECUTOR"] == "slurm":
            time.sleep(KILL_S)  # SLURM has asked it to stop, and ends this process, too, or queues the job again
        if status:
            sys.exit(status if status > 0 else f"ended by {signal.Signals(-status).name}")

    def checkpoint(self) -> Any:
        """Let the command save and end; submitit queues what is returned."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        with contextlib.suppress(ChildProcessError):  # it has ended before
            # Its status is left to the `wait` that this interrupts, and whose lock another `wait` would need.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.command))


def queued() -> dict[str, str] | None:
    """The states of this folder's jobs that SLURM has not ended, by the jobs' names; None if SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%Z|%j|job %i: %T (%r)"]
    answer = subprocess.run(command, capture_output=True, text=True)
    rows = [line.rsplit("|", 2) for line in answer.stdout.replace(" (None)", "").splitlines()]
    return None if answer.returncode else {name: state for folder, name, state in rows if folder == str(Path.cwd())}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(NOISE)]
    return lines[-1] if lines else "nothing was printed"


def follow(jobs: dict[str, Any], slurm: bool) -> None:
    """Print the state and the last line of each of submitit's jobs, by its name, until all have ended.

    Raises:
        UserError: jobs failed.
        StoppedError: a signal stopped this command, which stopped the local jobs.
    """
    left, said, failures, stopped = dict(jobs), dict.fromkeys(jobs, ""), [], False
    while left:
        time.sleep(POLL_S)
        if not slurm and not stopped and (stopped := bool(TERMINAL & signal.sigpending())):
            for job in left.values():
                os.kill(int(job.job_id), signal.SIGTERM)
        states = queued() if slurm else {name: "running" for name, job in left.items() if not job.done()}
        if states is None:
            continue
        for name in [*left]:
            log, result = left[name].paths.stdout, left[name].paths.result_pickle
            line = _last_line(log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "")
            # Network file systems may hide a new file for a while, but not from who lists its folder.
            if name not in states and result not in [*result.parent.iterdir()]:
                failures.append(f"{name} {'stopped' if stopped else 'failed'}: {line} (all of it: {log})")
            elif (now := f"{name}: {states.get(name, 'has ended')}: {line}") != said[name]:
                print(now, flush=True)
                said[name] = now
        left = {name: job for name, job in left.items() if name in states}
    if failures:
        raise (StoppedError if stopped else UserError)("; ".join(failures))


def options() -> argparse.Namespace:
    """What the command line asks for, and `slurm`, whether to ask SLURM for it.

    Raises:
        UserError: it cannot be had.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="of grid.runs (default: all)")
    parser.add_argument("--split", type=int, default=1, metavar="N", help="divide the students of a seed among N jobs")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each node for a job")
    parser.add_argument("--cpus", type=int, default=0, metavar="N", help="CPU cores of each node for a job")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes that train together in a job")
    parser.add_argument("--hours", type=float, default=24.0, metavar="H", help="time limit of a job (default: 24)")
    parser.add_argument("--partition", metavar="NAME", help="of SLURM")
    parser.add_argument("--cluster", choices=["slurm", "local"], help="default: slurm where it is installed")
    parser.add_argument("--wait", action="store_true", help="show how the jobs get on until all have ended")
    given = parser.parse_args()
    for option, least in {"split": 1, "gpus": 0, "cpus": 0, "nodes": 1, "hours": 0.1}.items():
        if not getattr(given, option) >= least:
            raise UserError(f"--{option} {getattr(given, option)}: must be at least {least}")
    given.slurm = given.cluster != "local" and all(map(shutil.which, ("sbatch", "srun", "squeue")))
    if not given.slurm and (given.cluster == "slurm" or given.nodes > 1):
        raise UserError("there is no SLURM here (sbatch); submit where it is, or without --cluster and --nodes")
    if importlib.util.find_spec("submitit") is None:
        raise UserError("submitit is not installed; install it with pip install -e '.[cluster]'")
    return given


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each job by its name, which begins with the seed's: seed-0, or seed-0.1 of several.

    Raises:
        UserError: a seed has no students, or there is no teacher.
    """
    runs, found = params.load(PARAMS).grid.runs, {}
    hidden = "CUDA_VISIBLE_DEVICES"  # by submitit from local jobs
    shown = [f"{hidden}={os.environ[hidden]}"] if hidden in os.environ else []
    here = ["env", "-u", hidden, *shown, *([f"GPUS={given.gpus}"] if given.gpus else [])]
    for seed in map(str, given.seeds or runs):
        if seed not in runs:
            raise UserError(f"--seeds {seed}: {PARAMS} has no student of this seed in grid.runs")
        for part in range(parts := min(given.split, len(runs[seed]))):
            only = ["--only", *runs[seed][part::parts]] if parts > 1 else []
            command = [sys.executable, "-m", "stages.train", "--seed", seed, *only]
            found[f"seed-{seed}" + f".{part + 1}" * (parts > 1)] = command if given.slurm else here + command
    if not (TEACH / "model.safetensors").is_file():
        raise UserError("there is no teacher yet; make it with: dvc repro teach")
    return found


def submitted(given: argparse.Namespace, name: str, command: list[str], folder: Path) -> Any:
    """A job that runs a command, with its log in `folder`.

    Raises:
        UserError: SLURM refuses it.
    """
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    tasks = max(1, given.gpus) if given.nodes > 1 else 1  # on one node the stage starts a process for each GPU itself
    cpus = given.cpus // tasks or None
    asked = {"name": name, "timeout_min": math.ceil(60 * given.hours) if given.slurm else UNLIMITED}
    asked |= {"nodes": given.nodes, "tasks_per_node": tasks, "gpus_per_node": given.gpus or None, "cpus_per_task": cpus}
    asked |= {"slurm_partition": given.partition, "slurm_signal_delay_s": SAVE_S, "stderr_to_stdout": True}
    # A task that fails ends the others. How many cores sbatch was asked for, srun does not know.
    asked["slurm_srun_args"] = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    cluster = "slurm" if given.slurm else "local"
    executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=UNLIMITED)
    executor.update_parameters(**asked, slurm_additional_parameters={"requeue": True})
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises, too
            return executor.submit(Training(command))
    except FailedJobError as refused:
        raise UserError(f"{name}: {_last_line(str(refused))}") from None


def main() -> None:
    """Submit the jobs that the command line asks for; follow them if it says so, and on this machine."""
    given = options()
    todo, folder = commands(given), machine.checkpoints() / "jobs" / time.strftime("%Y%m%d-%H%M%S")
    for name, state in ((given.slurm and queued()) or {}).items():
        if (seed := name.partition(".")[0]) in {job.partition(".")[0] for job in todo}:
            raise UserError(f"{seed} is submitted already ({state})")
    if not given.slurm:
        folder.parent.mkdir(parents=True, exist_ok=True)
        locks = {seed: try_lock(folder.with_name(f"{seed}.lock")) for seed in {name.partition(".")[0] for name in todo}}
        if taken := [seed for seed, lock in sorted(locks.items()) if lock is None]:
            raise UserError(
                f"{', '.join(taken)}: another command trains it on this machine; wait for that one, or stop it"
            )
        # local jobs inherit this, so that `follow` alone can stop them
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    jobs: dict[str, Any] = {}
    for name, command in todo.items():
        jobs[name] = submitted(given, name, command, folder / name)
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
