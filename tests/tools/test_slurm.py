"""A real SLURM of this machine alone: a seed that reaches its time limit ends as a plain run does."""

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from stages.core.base.files import read_json
from stages.core.base.ownership import is_running

pytestmark = [pytest.mark.nightly, pytest.mark.processes]

SUBMIT = [sys.executable, "-m", "stages.tools.submit"]
TRAIN = [sys.executable, "-m", "stages.train"]
TRAINING_S = 120  # of the steps of a seed, alone on a core
STEPS, BATCH = 40, 8  # of an epoch; images of a step


DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    """Ports of the loopback that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def cluster(monkeypatch):
    """A SLURM of this machine alone, which ends with the test."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing or os.getuid():
        pytest.skip(f"needs root and Debian's slurmctld, slurmd, slurm-client, munge ({missing or 'not root'})")
    with tempfile.TemporaryDirectory() as name:  # a short one: sockets have short paths
        folder = Path(name)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        (folder / "key").touch(0o600)
        (folder / "key").write_bytes(os.urandom(1024))
        text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=free_ports(2))
        (folder / "slurm.conf").write_text(text)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        places = {"key-file": "key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        places["log-file"] = "munged.log"
        munge = [f"--{option}={folder / place}" for option, place in places.items()]
        try:
            for command in (["munged", "--force", *munge], ["slurmctld"], ["slurmd"]):
                subprocess.run(command, check=True, capture_output=True)
            until(lambda: "idle" in output("sinfo", "--noheader", "--format=%T"))
            yield
            output("scancel", "--me")
            until(lambda: not output("squeue", "--noheader"))
        finally:
            for daemon in ("slurmd", "slurmctld", "munged"):
                ended(folder / f"{daemon}.pid")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def until(condition, within_s=600):
    """Wait for a condition, and return what it is."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def ended(file):
    """End the daemon whose process id a file holds, and wait for its end."""
    if file.is_file():
        daemon = int(file.read_text())
        os.kill(daemon, signal.SIGTERM)
        until(lambda: not is_running(daemon), 60)


@pytest.fixture
def long(ready, run_stage):
    """The project with so many epochs that a seed takes `TRAINING_S`."""
    from stages import train

    def epochs(number):
        content = yaml.safe_load(Path("params.yaml").read_text())
        content["recipe"] |= {"epochs": number, "epoch_steps": STEPS}
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    epochs(2)
    run_stage(train.main, "--seed", "0")
    speeds = [read_json(file)["train_images_per_s"] for file in Path(".ckpt").glob("*/speed.json")]
    epochs(math.ceil(TRAINING_S / sum(STEPS * BATCH / speed for speed in speeds)))
    shutil.rmtree(".ckpt")
    shutil.rmtree("artifacts/train")
    return ready


def submitted(*options):
    return subprocess.Popen([*SUBMIT, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_seed_that_reaches_its_time_limit_ends_as_a_plain_run_does(cluster, long, students, tmp_path, monkeypatch):
    plain = shutil.copytree(long, tmp_path / "plain")
    monkeypatch.setenv("CHECKPOINT_MINUTES", "0.05")
    refused = submitted("--seeds", "0", "--partition", "none")
    reason = "error: seed-0: sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    assert refused.communicate() == ("", reason) and refused.returncode == 1

    started = time.monotonic()
    limited, other = submitted("--wait", "--seeds", "0", "--hours", "1"), submitted("--wait", "--seeds", "1")
    until(lambda: len(output("squeue", "--noheader").splitlines()) == 2)
    again = submitted("--seeds", "1")
    assert re.fullmatch(r"error: seed-1 is submitted already \(job \d: \w+( \(\w+\))?\)\n", again.communicate()[1])
    assert again.returncode == 1

    # The limit of an hour becomes one that is near; of an hour the warning comes two minutes before.
    until(lambda: "epoch 2/" in text_of("seed-0"))
    number = output("squeue", "--name=seed-0", "--noheader", "--format=%i").strip()
    minutes = math.ceil((time.monotonic() - started) / 60) + 1
    subprocess.run(["scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}"], check=True)
    until(lambda: output("squeue", "--name=seed-0", "--states=PENDING", "--noheader"))
    subprocess.run(["scontrol", "update", f"JobId={number}", "TimeLimit=60"], check=True)
    core = str(min(os.sched_getaffinity(0)))  # as many as a job has: the number of threads follows
    for seed in ("0", "1"):
        subprocess.run(["taskset", "--cpu-list", core, *TRAIN, "--seed", seed], cwd=plain, check=True)

    for name, one in (("seed-0", limited), ("seed-1", other)):
        said, failed = one.communicate()
        assert one.returncode == 0 and not failed, failed
        assert f"{name}: has ended: lift-mse-" in said and "dvc repro" in said.splitlines()[-1]
        assert text_of(name).count("lift-mse-" + name[-1] + ": epoch 1/") == 1  # it went on, and did not start over
    assert re.search(r"^stopped by SIGUSR2; .* resumes at step \d+$", text_of("seed-0"), re.MULTILINE)
    assert "Requeued job" in text_of("seed-0")
    assert "signal" not in text_of("seed-1")
    assert len(students(plain)) > 20 and students(long) == students(plain)


def text_of(name):
    """The logs of a seed's jobs."""
    return "".join(log.read_text() for log in Path(".ckpt/jobs").glob(f"*/{name}/*.out"))
