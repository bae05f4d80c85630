"""Several processes train, evaluate and fail as one would."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_workers
import numpy as np
import pytest
import timm
import torch

from stages.core.base import ownership
from stages.core.base.errors import StoppedError, UserError
from stages.core.data.batches import evaluation_batches
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList
from stages.core.distillation.against_teacher import evaluate_against_teacher
from stages.core.distillation.task import create_task
from stages.core.features.extraction import extract
from stages.core.features.store import blocks
from stages.core.runtime.distributed import World, joined, launch
from stages.core.runtime.gpus import claim, refuse_shared
from stages.core.runtime.machine import gpu_claims, processes, workers
from stages.core.train import side_by_side
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.loop import fit_together
from stages.core.train.sampler import EpochSampler
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from tests.sections import make_augment, make_objective, make_recipe

CPU = torch.device("cpu")
SMALL = {"img_size": 8, "patch_size": 2, "depth": 2, "num_classes": 3}
AUGMENT = make_augment(auto_augment=None, interpolation="bicubic")
RECIPE = make_recipe(warmup_epochs=0, min_lr=0.0, augment=AUGMENT)


def small_model(architecture: str, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, pretrained_cfg_overlay={"input_size": (3, 8, 8)}, **SMALL, **arguments)


def train(data: Path, out: Path, die: bool, drop_path: float = 0.0, terminated_after: float = math.inf) -> None:
    """Train a small student and write what came of it; with `die`, rank 1 is killed once, in its second epoch."""
    torch.set_num_threads(1)
    with joined() as world:
        teacher = small_model("cait_s24_224", embed_dim=96, num_heads=6).eval()
        student = small_model(
            "deit_tiny_lift_patch16_224", embed_dim=48, num_heads=3, lift_width=96, drop_path_rate=drop_path
        )
        train, val = (scan(data / name) for name in ("train", "val"))
        images = ImageList(data / "train", list(train.files), train.labels())
        sampler = EpochSampler(len(images.files), 0, batch=8, world=world, repeats=3)
        batches = TrainingBatches(images, student, sampler, augment=RECIPE.augment, workers=0)
        images = ImageList(data / "val", list(val.files), val.labels())
        validation = evaluation_batches(images, student, batch=2, workers=0, world=world)
        frozen, objective = FrozenTeacher(teacher, device=world.device), make_objective(alpha=0.5, tau=2.0)
        task = create_task(student, frozen, objective, label_smoothing=0.1, device=world.device)

        def log(metrics: dict[str, float]) -> None:
            with (out / f"epochs-{world.rank}").open("a") as file:
                file.write(f"{metrics['epoch']}\n")
            if die and world.rank == 1 and metrics["epoch"] == 1 and not (out / "died").exists():
                (out / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        asked = itertools.count()

        def terminated() -> signal.Signals | None:  # one of two is, after a word with the other at each step and batch
            return signal.SIGTERM if world.rank == 1 and next(asked) >= terminated_after else None

        side_by_side.SYNC_EVERY = 1
        with CheckpointFolder(out, "run", {}, {}, writes=world.is_main) as checkpoints:
            training = Training(task, checkpoints, RECIPE, sampler, seed=0, world=world, log=log)
            fit_together([training], batches, validation, terminated=terminated)
        (final,) = evaluate_against_teacher([student], teacher, validation, world)
        if world.is_main:
            found = {"history": training.state.history, "metrics": final.metrics}
            found["predictions"] = final.predictions.tolist()
            (out / "found.json").write_text(json.dumps(found))
            torch.save(student.state_dict(), out / "weights.pt")


def write_features(data: Path, out: Path) -> None:
    """Extract every block of a small model on the training images of `data`."""
    torch.set_num_threads(1)
    with joined() as world:
        split = scan(data / "train")
        images = ImageList(data / "train", list(split.files), split.labels())
        model = small_model("deit_tiny_patch16_224", embed_dim=48, num_heads=3)
        batches = evaluation_batches(images, model, batch=4, workers=0, world=world)
        of = {"images": len(images.files), "world": world, "layerwise": True, "provenance": {"weights": "random"}}
        extract(model, batches, out, **of)


@pytest.fixture
def trained(tmp_path, tree, monkeypatch):
    """Run `train` with some processes; returns what it found and the epochs each rank logged."""

    def run(name: str, processes: int, die: bool = False, drop_path: float = 0.0) -> tuple[dict, dict, list[list[int]]]:
        out = tmp_path / name
        out.mkdir()
        monkeypatch.setenv("PROCESSES", str(processes))
        launch(train, tree, out, die, drop_path)
        epochs = [list(map(int, (out / f"epochs-{rank}").read_text().split())) for rank in range(processes)]
        return json.loads((out / "found.json").read_text()), torch.load(out / "weights.pt", weights_only=True), epochs

    return run


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
def test_two_processes_equal_one_even_if_a_worker_is_killed(trained):
    alone, weights, _ = trained("alone", 1, drop_path=0.2)
    together, shared_weights, epochs = trained("together", 2, die=True, drop_path=0.2)
    assert together["predictions"] == alone["predictions"]
    for name, value in alone["metrics"].items():
        assert together["metrics"][name] == pytest.approx(value, rel=1e-3), name
    for entry, other in zip(alone["history"], together["history"], strict=True):
        assert other == pytest.approx(entry, rel=1e-3)
    torch.testing.assert_close(shared_weights, weights, rtol=1e-3, atol=1e-4)
    assert epochs[1] == [0, 1, 0, 1, 2]  # the second time, the first epoch is told from the checkpoint


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
def test_two_processes_extract_what_one_does(tmp_path, tree, monkeypatch):
    found = []
    for count in (1, 2):
        (out := tmp_path / str(count)).mkdir()
        monkeypatch.setenv("PROCESSES", str(count))
        launch(write_features, tree, out)
        found.append(blocks(out))
    alone, together = found
    assert list(alone) == list(together) == [0, 1]
    for block, tokens in alone.items():
        np.testing.assert_allclose(together[block], tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.processes
def test_a_workers_user_error_is_the_launchers(monkeypatch):
    monkeypatch.setenv("PROCESSES", "2")
    with pytest.raises(UserError, match=r"^one line of 2$"):
        launch(faulty_workers.refuse)


@pytest.mark.processes
def test_workers_that_keep_dying_end_in_one_line(monkeypatch, capfd):
    monkeypatch.setenv("PROCESSES", "2")
    monkeypatch.setattr("stages.core.runtime.distributed.RESTARTS", 0)
    with pytest.raises(UserError, match=r"worker [01] of 2 ended with exit status 1, after 0 restarts"):
        launch(faulty_workers.crash)
    assert "a bug" in capfd.readouterr().err


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGINT])
def test_a_launcher_passes_signals_on_and_waits_for_the_workers_end(tmp_path, monkeypatch, sent):
    monkeypatch.setenv("PROCESSES", "2")
    with pytest.raises(StoppedError, match=rf"^stopped by {sent.name}; all of it is saved$"):
        launch(faulty_workers.save_when_asked, tmp_path, os.getpid(), sent)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
def test_a_second_ctrl_c_ends_the_workers_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PROCESSES", "2")
    with pytest.raises(KeyboardInterrupt):
        launch(faulty_workers.insist, tmp_path, os.getpid())
    for pid in map(int, (path.name for path in tmp_path.iterdir())):
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.05)


@pytest.mark.processes
def test_workers_that_end_by_the_signal_that_is_passed_on_are_not_restarted(monkeypatch, capfd):
    monkeypatch.setenv("PROCESSES", "2")
    with pytest.raises(StoppedError, match=r"^stopped by SIGHUP; the last checkpoint is kept$"):
        launch(faulty_workers.hang_up, os.getpid())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_a_wrong_number_of_processes_is_refused(monkeypatch, value):
    monkeypatch.setenv("PROCESSES", value)
    with pytest.raises(UserError, match=f"PROCESSES={value}"):
        processes()


def test_gpus_are_claimed_by_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    ownership.machine.cache_clear()
    here = gpu_claims()
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(ownership, "BOOT_ID", boot)
    ownership.machine.cache_clear()
    assert gpu_claims() != here and gpu_claims().parent == here.parent  # of another node on the same volume
    monkeypatch.setattr("socket.gethostname", lambda: "container")
    ownership.machine.cache_clear()
    other_container = gpu_claims()
    boot.unlink()
    ownership.machine.cache_clear()
    assert gpu_claims() not in (here, other_container)  # where a system has no such file, the host name decides
    ownership.machine.cache_clear()


def test_runs_side_by_side_take_different_devices(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.core.runtime.gpus._held", held := [])
    assert claim(["0", "1", "2"], 2, tmp_path) == ["0", "1"]
    waits = []

    def free_one(seconds: float) -> None:
        waits.append(seconds)
        held.pop(0).close()

    monkeypatch.setattr("time.sleep", free_one)
    assert claim(["0", "1", "2"], 2, tmp_path) == ["0", "2"]  # 1 is still taken
    assert len(waits) == 1
    with pytest.raises(UserError, match="GPUS=4: there are 3 CUDA devices"):
        claim(["0", "1", "2"], 4, tmp_path)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_consecutive_and_complete(size):
    shares = [World(rank, size, CPU).share(20) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(20))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


JOINED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def step(monkeypatch):
    """Be one task of a SLURM step; returns what `launch` makes of the variables."""

    def run(**variables: str) -> dict[str, str]:
        given = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77"}
        for name, value in (given | {"SLURM_STEP_NODELIST": "n1"} | variables).items():
            monkeypatch.setenv(name, value)
        for name in JOINED:
            monkeypatch.setenv(name, "")  # so that it is put back afterwards
            monkeypatch.delenv(name)
        seen: list[dict[str, str]] = []
        launch(lambda: seen.append({name: os.environ[name] for name in JOINED}))
        return seen[0]

    return run


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu07", "gpu07"), ("gpu[03-07,12]", "gpu03"), ("a1,b2", "a1"), ("n[1,3],login1", "n1")],
)
def test_a_slurm_step_is_joined(step, nodes, first):
    seen = step(SLURM_STEP_NODELIST=nodes)
    assert (seen["RANK"], seen["WORLD_SIZE"], seen["MASTER_ADDR"]) == ("0", "4", first)


@pytest.mark.parametrize(
    ("variables", "here"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "4"}, "4"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "0"}, "4"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "1"}, "4"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"}, "3"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,12(x10),2", "SLURM_NODEID": "10"}, "12"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,12(x10),2", "SLURM_NODEID": "11"}, "2"),
        ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "1"}, "2"),
        ({}, "4"),
    ],
)
def test_a_slurm_task_knows_how_many_are_on_its_machine(step, variables, here):
    assert step(**variables)["LOCAL_WORLD_SIZE"] == here


@pytest.mark.parametrize(
    ("own", "on_node", "tasks", "expected"),
    [
        (32, "32", "4", 7),  # nothing binds the tasks: a fourth of the step's cores, but one
        (8, "32", "4", 7),  # srun -c 8 has bound each to eight already
        (4, "32", "8", 3),
        (1, "4", "4", 1),
        (24, "24", "1", 23),
        (64, "64", "1", 32),
    ],
)
def test_loading_processes_of_a_slurm_task_keep_to_its_cores(step, monkeypatch, own, on_node, tasks, expected):
    monkeypatch.delenv("WORKERS", raising=False)
    monkeypatch.setattr("stages.core.runtime.machine.cores", lambda: own)
    step(SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_CPUS_ON_NODE=on_node)
    assert workers() == expected


def test_processes_on_one_device_are_refused():
    refuse_shared(["GPU-a", "GPU-b", "GPU-c"])
    with pytest.raises(UserError, match="3 processes are on 2 CUDA devices"):
        refuse_shared(["GPU-a", "GPU-b", "GPU-a"])


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
def test_a_terminated_world_saves_together_and_goes_on(trained, tmp_path, tree, monkeypatch):
    (tree / "val/cat/001.png").unlink()  # one process has a batch to evaluate on that the other has not
    monkeypatch.setenv("PROCESSES", "2")
    (out := tmp_path / "stopped").mkdir()
    for asked in (3, 0):  # after the second step, then while evaluating
        with pytest.raises(UserError, match=r"^stopped by SIGTERM; the same command resumes at step 2$"):
            launch(train, tree, out, False, 0.2, asked)
    launch(train, tree, out, False, 0.2)
    whole, weights, _ = trained("whole", 2, drop_path=0.2)
    assert json.loads((out / "found.json").read_text()) == whole
    torch.testing.assert_close(torch.load(out / "weights.pt", weights_only=True), weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= is not a number; unset it, or start several processes by torchrun or srun"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set, but not RANK, MASTER_ADDR, MASTER_PORT; start by torchrun or srun"),
        ({"RANK": "0"}, "RANK=0 is set, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT; start by torchrun or srun"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one is not a number"),
    ],
)
def test_a_rendezvous_that_is_half_set_ends_in_one_line(monkeypatch, variables, reason):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{reason}"):
        launch(print)


@pytest.mark.processes
def test_a_process_that_waits_for_others_says_for_whom_and_where(tmp_path):
    """The first of two tasks, of which the other one was never started."""
    program = "from stages.core.runtime import distributed as d; d.ANNOUNCED_S = 0.2\nwith d.joined(): pass"
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
    command = [sys.executable, "-c", program]
    environment = {**os.environ, **variables, "DEVICE": "cpu"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines = iter(process.stderr.readline, "")
        said = next(line for line in lines if line.startswith("waits"))
        process.kill()
    assert said == "waits until all of 2 processes have started (host 127.0.0.1, port 29731)\n"
