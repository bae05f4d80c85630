"""Seeds as jobs: on this machine, of a SLURM that is played, and nightly of a real one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from stages.core.base.errors import UserError
from stages.tools import submit

SUBMIT = [sys.executable, "-m", "stages.tools.submit"]


@pytest.fixture
def jobs(project, monkeypatch):
    """Submit in this process."""

    def execute(*arguments):
        monkeypatch.setattr(sys, "argv", ["submit", *arguments])
        submit.main()

    return execute


@pytest.mark.processes
def test_two_seeds_trained_as_jobs_are_those_of_plain_runs(ready, students, run_stage, tmp_path, monkeypatch):
    from stages import train

    plain = shutil.copytree(ready, tmp_path / "plain")
    ended = subprocess.run([*SUBMIT, "--cluster", "local"], capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    said = ended.stdout.splitlines()
    assert said[0].startswith("seed-0: job ") and any(line.startswith("seed-1: job ") for line in said)
    assert "seed-0: has ended: lift-mse-0: top-1 " in ended.stdout and "dvc repro" in said[-1]
    monkeypatch.chdir(plain)
    for seed in ("0", "1"):
        run_stage(train.main, "--seed", seed)
    assert len(students(plain)) > 20 and students(ready) == students(plain)


# A stage that counts to 8 in a file, and that has its job preempted at 4, the first time.
STAGE = """
import os, pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
counted = pathlib.Path("counted")
for step in range(int(counted.read_text()) if counted.exists() else 0, 8):
    print("step", step, flush=True)
    if step == 4 and not counted.exists():
        os.kill(os.getppid(), getattr(signal, sys.argv[1]))
        while not asked:
            time.sleep(0.01)
    if asked:
        counted.write_text(str(step))
        print("saved", flush=True)
        sys.exit(75)
counted.unlink()
"""


def played(*words):
    """A command that submits another one than the stage's."""
    program = "import sys; from stages.tools import submit; submit.POLL_S = 0.2\n"
    program += f"jobs = {{'seed-0': [sys.executable, *{words}], 'seed-1': ['touch', 'second']}}\n"
    program += "submit.commands = lambda given: jobs\n"
    program += "from stages.core.base.errors import run; run(submit.main)"
    return [sys.executable, "-c", program, "--cluster", "local"]


@pytest.mark.processes
def test_a_job_that_is_preempted_saves_and_goes_on(project):
    Path("stage.py").write_text(STAGE)
    ended = subprocess.run(played("stage.py", "SIGUSR2"), capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    (log,) = Path(".ckpt/jobs").glob("*/seed-0/*.out")
    lines = [line for line in log.read_text().splitlines() if not line.startswith("submitit ")]
    assert lines == [*[f"step {step}" for step in range(5)], "saved", *[f"step {step}" for step in range(4, 8)]]
    assert Path("second").exists()


@pytest.mark.processes
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_stops_the_command_stops_local_jobs_which_save(project, sent):
    Path("stage.py").write_text(STAGE)
    running = subprocess.Popen(played("stage.py", "SIGCONT"), stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any("step 4" in log.read_text() for log in Path(".ckpt/jobs").glob("*/seed-0/*.out")):
        assert running.poll() is None
        time.sleep(0.05)
    if sent == signal.SIGTERM:
        running.send_signal(sent)
    else:  # as a terminal does
        os.killpg(running.pid, sent)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75 and said.count("\n") == 1
    assert said.startswith("seed-0 stopped: saved (all of it: ") and Path("counted").read_text() == "4"
    assert not Path("second").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('one'); raise SystemExit('error: no space left on the disk')", "error: no space left on the disk"),
        ("import os; print('step', 3, flush=True); os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    ],
)
def test_the_last_line_of_a_job_that_fails_reaches_the_user(project, program, reason):
    ended = subprocess.run(played("-c", program), capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: seed-0 failed: {reason} (all of it: ") and ended.stderr.count("\n") == 1


def test_what_cannot_be_submitted_is_one_line(jobs, project, monkeypatch):
    for arguments, line in (
        (["--seeds", "7"], "--seeds 7: params.yaml has no student of this seed in grid.runs"),
        (["--split", "0"], "--split 0: must be at least 1"),
        (["--nodes", "0"], "--nodes 0: must be at least 1"),
        (["--gpus", "-1"], "--gpus -1: must be at least 0"),
        (["--hours", "nan"], "--hours nan: must be at least 0.1"),
        (["--nodes", "2"], "there is no SLURM here (sbatch); submit where it is, or without --cluster and --nodes"),
    ):
        with pytest.raises(UserError) as caught:
            jobs(*arguments, "--cluster", "local")
        assert str(caught.value) == line
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(project))
        with pytest.raises(UserError, match="there is no SLURM here"):
            jobs("--cluster", "slurm")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(
            UserError, match=r"submitit is not installed; install it with pip install -e '\.\[cluster\]'"
        ):
            jobs("--cluster", "local")
    Path("artifacts/teach/model.safetensors").unlink()
    with pytest.raises(UserError, match="there is no teacher yet; make it with: dvc repro teach"):
        jobs("--cluster", "local")
    assert not Path(".ckpt/jobs").exists()


@pytest.fixture
def slurm(project, tmp_path, monkeypatch):
    """Play SLURM's commands by shell scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(submit, "POLL_S", 0.01)

    def play(**scripts):
        for name, script in {"srun": "", "squeue": "", "sbatch": "", **scripts}.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o700)

    return play


NUMBERED = 'number=$(ls sent* 2> /dev/null | wc -l); cp "$1" sent$number; echo "Submitted batch job 7$number"'


def test_what_slurm_is_asked_for(slurm, jobs, capsys):
    slurm(sbatch=NUMBERED)
    options = ["--split", "2", "--gpus", "4", "--cpus", "32", "--nodes", "2", "--hours", "1.5", "--partition", "long"]
    jobs("--seeds", "1", *options)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(", ")[0] for line in said[:2]] == ["seed-1.1: job 70", "seed-1.2: job 71"]
    asked = Path("sent1").read_text()
    wanted = {"job-name": "seed-1.2", "time": 90, "nodes": 2, "ntasks-per-node": 4, "gpus-per-node": 4}
    wanted |= {"cpus-per-task": 8, "partition": "long", "signal": "USR2@120", "open-mode": "append"}
    for option, value in wanted.items():
        assert f"#SBATCH --{option}={value}\n" in asked
    assert "#SBATCH --requeue\n" in asked and "--kill-on-bad-exit=1 --cpus-per-task=8 " in asked
    jobs("--seeds", "0", "--gpus", "4")
    asked = Path("sent2").read_text()
    assert "#SBATCH --ntasks-per-node=1\n" in asked and "#SBATCH --time=1440\n" in asked
    assert "partition" not in asked and "cpus-per-task" not in asked


def test_the_students_of_a_seed_are_divided_among_its_jobs(project, monkeypatch):
    def commands(**given):
        return submit.commands(Namespace(**{"slurm": False, "seeds": None, "split": 1, "gpus": 0, **given}))

    trains = ["-m", "stages.train", "--seed"]
    assert [command[-2:] for command in commands().values()] == [["--seed", "0"], ["--seed", "1"]]
    for split in (2, 9):  # there are two students
        named = commands(slurm=True, seeds=[1], split=split)
        assert [*named] == ["seed-1.1", "seed-1.2"]
        first, second = named.values()
        assert first == [sys.executable, *trains, "1", "--only", "baseline-mse-1"]
        assert second == [sys.executable, *trains, "1", "--only", "lift-mse-1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (command,) = commands(seeds=[0], gpus=2).values()  # submitit makes the variable empty
    assert command == ["env", "-u", "CUDA_VISIBLE_DEVICES", "GPUS=2", sys.executable, *trains, "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    (command,) = commands(seeds=[0]).values()
    assert command == ["env", "-u", "CUDA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES=1,3", sys.executable, *trains, "0"]


def test_a_seed_that_waits_in_the_queue_is_not_submitted_again(slurm, jobs):
    slurm(
        sbatch=NUMBERED,
        squeue="echo $PWD'|seed-1.2|job 12: PENDING (Priority)'; echo '/x|seed-0|job 3: RUNNING (None)'",
    )
    with pytest.raises(UserError, match=r"^seed-1 is submitted already \(job 12: PENDING \(Priority\)\)$"):
        jobs()
    assert not Path("sent0").exists()
    jobs("--seeds", "0")  # the other is of another project
    assert Path("sent0").exists()


@pytest.mark.processes
def test_a_seed_that_is_trained_here_is_not_submitted_again(jobs, project):
    Path("stage.py").write_text("import pathlib, time\nwhile not pathlib.Path('seen').exists(): time.sleep(0.05)")
    first = subprocess.Popen(played("stage.py"), stdout=subprocess.PIPE, text=True)
    try:
        while not [*Path(".ckpt/jobs").glob("*/seed-0/*.out")]:
            time.sleep(0.05)
        with pytest.raises(UserError, match=r"^seed-0: another command trains it on this machine; wait for that one"):
            jobs("--cluster", "local", "--seeds", "0")
    finally:
        Path("seen").touch()
        first.communicate(timeout=60)
    assert first.returncode == 0 and len([*Path(".ckpt/jobs").glob("*/seed-*")]) == 2


def test_what_slurm_refuses_is_one_line(slurm, jobs, capfd):
    slurm(sbatch="echo 'sbatch: error: invalid: x' >&2; echo 'sbatch: error: Invalid partition name' >&2; exit 1")
    with pytest.raises(UserError, match=r"^seed-0: sbatch: error: Invalid partition name$"):
        jobs("--partition", "x")
    assert capfd.readouterr() == ("", "")


def test_a_job_of_slurm_that_fails_is_named_with_its_last_line(slurm, jobs, project, capsys):
    text = "step 1\nerror: no space left on the disk\nsrun: error: node: task 0: Exited with exit code 1"
    states = ["exit 1", f"echo '{project}|seed-0|job 70: PENDING (Priority)'"]
    states.append(f"printf '{text}' > $(echo .ckpt/jobs/*/seed-0)/70_0_log.out")
    for number, state in enumerate(states):
        Path(f"state{number}").write_text(state)
    slurm(sbatch=NUMBERED, squeue="[ -e sent0 ] || exit; n=$(ls said* 2> /dev/null | wc -l); touch said$n; . ./state$n")
    with pytest.raises(UserError) as caught:
        jobs("--seeds", "0", "--wait")
    (log,) = (project / ".ckpt/jobs").glob("*/seed-0/70_0_log.out")
    assert str(caught.value) == f"seed-0 failed: error: no space left on the disk (all of it: {log})"
    assert "seed-0: job 70: PENDING (Priority): nothing was printed" in capsys.readouterr().out
