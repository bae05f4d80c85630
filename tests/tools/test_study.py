"""The pipeline without DVC: the right steps in the right order, nothing twice, and a stop in time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stages.core.base.errors import UserError
from stages.tools import study
from stages.tools.compose import composed

TOY = """
stages:
  first:
    cmd: sh -c "echo first >> order; cat in > a"
    deps: [in]
    params: [one]
    outs: [a]
  second:
    matrix: {x: '${names}', seed: '${seeds}'}
    cmd: sh -c "echo ${item.x}${item.seed} >> order; mkdir -p b/${key}; cat a > b/${key}/file"
    deps: [a]
    params: ['of.${item.x}']
    outs: ['b/${key}']
  third:
    cmd: sh -c "echo third >> order; ls b > c"
    deps: [b]
    outs: [c: {cache: false}]
"""
GIVEN = {"one": 1, "names": ["p", "q"], "seeds": [0, 1], "of": {"p": 1, "q": 1}}
MISSING = ("dvc", "dvclive", "hydra", "omegaconf", "papermill", "nbconvert", "nbformat", "nbclient", "datasets")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Run the toy pipeline in a folder of its own; gives what ran, in order, and the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("in").write_text("1")

    def execute(*arguments, pipeline=TOY, given=GIVEN):
        Path("order").write_text("")
        Path("dvc.yaml").write_text(pipeline)
        Path("params.yaml").write_text(yaml.safe_dump(given))
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        status = 0
        try:
            study.main()
        except SystemExit as ended:
            status = ended.code
        return Path("order").read_text().split(), status

    return execute


@pytest.mark.parametrize("at_once", ["1", "3"])
def test_steps_run_once_each_before_what_reads_them(toy, at_once):
    order, status = toy("--at-once", at_once)
    assert status == 0 and order[0] == "first" and order[-1] == "third"
    assert sorted(order[1:-1]) == ["p0", "p1", "q0", "q1"]
    assert set(order[1:3]) == {"p0", "q0"} or at_once == "3"
    assert Path("c").read_text().split() == ["p-0", "p-1", "q-0", "q-1"]
    assert toy() == ([], 0)


def test_only_what_a_change_touches_runs_again(toy):
    toy()
    assert toy(given=GIVEN | {"of": {"p": 1, "q": 2}})[0] == ["q0", "q1"]
    Path("in").write_text("2")
    assert toy(given=GIVEN | {"of": {"p": 1, "q": 2}})[0][0] == "first"
    Path("c").unlink()
    assert toy(given=GIVEN | {"of": {"p": 1, "q": 2}}) == (["third"], 0)


def test_parameters_that_do_not_fit_the_pipeline_are_named(toy):
    faults = [
        ("seeds: must be a list, as [0]", GIVEN | {"seeds": 0}),
        ("names: must be a list, as [p]", GIVEN | {"names": "p"}),
        ("one: is missing, and dvc.yaml reads it", {key: value for key, value in GIVEN.items() if key != "one"}),
        ("of.q: is missing, and dvc.yaml reads it", GIVEN | {"of": {"p": 1}}),
        ("one: is missing, and dvc.yaml reads it", [1]),
    ]
    for reason, given in faults:
        with pytest.raises(UserError) as caught:
            toy(given=given)
        assert str(caught.value) == f"params.yaml: {reason}"
    assert not Path("a").exists()


def test_stages_can_be_left_out(toy):
    assert "third" not in toy("--without", "third")[0]
    with pytest.raises(UserError, match="--without fourth: must be one of the stages"):
        toy("--without", "fourth")


def test_a_failure_names_the_step_and_what_it_said(toy):
    with pytest.raises(UserError, match=r"third failed: no luck \(all of it: .*third.txt\)"):
        toy(pipeline=TOY.replace("ls b > c", "echo no luck; exit 3"))
    assert toy() == (["third"], 0)


WHOLE = 'sh -c "echo ${item.x}${item.seed} >> order; mkdir -p b/${key}; cat a > b/${key}/file"'
GRID = TOY.replace("second:", "train:").replace(WHOLE, "python trains.py --x ${item.x} --seed ${item.seed}")
TRAINS = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--x", action="append")
parser.add_argument("--seed", action="append")
given = parser.parse_args()
cells = [f"{x}-{seed}" for x, seed in zip(given.x, given.seed, strict=True)]
with open("order", "a") as order:
    print(",".join(cells), file=order)
for cell in cells:
    pathlib.Path("b", cell).mkdir(parents=True, exist_ok=True)
"""


def test_students_of_one_seed_are_trained_by_one_command(toy):
    Path("trains.py").write_text(TRAINS)
    assert toy(pipeline=GRID) == (["first", "p-0,q-0", "p-1,q-1", "third"], 0)
    assert toy(pipeline=GRID) == ([], 0)
    changed = GIVEN | {"names": ["p", "q", "r"], "of": {"p": 1, "q": 2, "r": 1}}
    assert toy(pipeline=GRID, given=changed)[0][:2] == ["q-0,r-0", "q-1,r-1"]  # what is done stays out
    Path("in").write_text("2")
    found = toy("--together", "2", pipeline=GRID, given=changed)[0]
    assert found == ["first", "p-0,q-0", "r-0", "p-1,q-1", "r-1"]
    with pytest.raises(UserError, match="--at-once and --together must be at least 1"):
        toy("--together", "0", pipeline=GRID)


def test_a_failure_of_a_command_for_several_steps_names_them_all(toy):
    Path("trains.py").write_text("print('no luck')\nraise SystemExit(1)")
    with pytest.raises(UserError, match=r"^train@p-0, train@q-0 failed: no luck \(all of it: .*train@p-0\+1\.txt\)$"):
        toy(pipeline=GRID)


SLOW = """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
def save(*_):
    pathlib.Path("saved").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
pathlib.Path("child").write_text(str(child.pid))
time.sleep(60)
"""
STUCK = TOY.replace('sh -c "echo third >> order; ls b > c"', "python slow.py")


def ends(child):
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(Path(child).read_text()), 0)
            time.sleep(0.05)


@pytest.mark.processes
def test_time_up_ends_what_runs_and_says_what_is_left(toy, capfd, monkeypatch):
    Path("slow.py").write_text(SLOW)
    monkeypatch.setattr(study, "GRACE_S", 3.0)
    started = time.monotonic()
    assert toy("--minutes", "0.1", pipeline=STUCK)[1] == study.LEFT
    assert time.monotonic() - started < 6 and Path("saved").exists()
    ends("child")
    assert "5 of 6 steps are done; left: third" in capfd.readouterr().out
    assert toy() == (["third"], 0)


@pytest.mark.processes
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs(toy, root, sent):
    toy()
    Path("c").unlink()
    Path("slow.py").write_text(SLOW)
    Path("dvc.yaml").write_text(STUCK)
    command = [sys.executable, "-m", "stages.tools.study"]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)}, stderr=subprocess.PIPE, text=True)
    while not Path("child").exists() or not Path("child").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(sent)
    _, said = running.communicate()
    assert running.returncode in (128 + sent, 130) and Path("saved").exists() and "Traceback" not in said
    ends("child")


def test_the_steps_are_those_of_dvc(root):
    pipeline, given = (yaml.safe_load((root / name).read_text()) for name in ("dvc.yaml", "params.yaml"))
    given["dataset"]["watch"] = ["images"]
    found = {step.name: step for step in study.steps(pipeline["stages"], given)}
    grid = [
        f"{s}-{o}-{n}" for s in given["strategy"]["names"] for o in given["objective"]["names"] for n in given["seeds"]
    ]
    assert {name.removeprefix("train@") for name in found if name.startswith("train@")} == set(grid)
    assert {"check", "watch@images", "extract@teacher", "summarize", "audit", "report"} <= found.keys()
    one = found["train@widen-mse-1"]
    assert one.command == "python -m stages.train --strategy widen --objective mse --seed 1"
    assert one.outs == ("artifacts/train/widen-mse-1",) and one.params["student.strategies.widen"]
    assert all(Path(root / dep).exists() for dep in one.deps if dep.endswith(".py"))
    assert (
        one.follows(found["teach@teacher"])
        and found["summarize"].follows(one)
        and not one.follows(found["svd@teacher"])
    )
    assert found["watch@images"].always and "${" not in str(found.values())


def test_the_cifar100_study_has_its_core_grid(root):
    given = yaml.safe_load(composed("profile=cifar100", "objective=core"))
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    runs = [step.name for step in study.steps(pipeline, given) if step.name.startswith("train@")]
    assert len(runs) == 27 and all(name.endswith("-0") for name in runs[:9])


def test_a_stage_of_items_needs_a_mapping(root):
    given = yaml.safe_load(composed())
    given["grid"]["runs"] = list(given["grid"]["runs"])
    with pytest.raises(UserError, match=r"params\.yaml: grid\.runs: must be a mapping; compose it anew"):
        list(study.steps(yaml.safe_load((root / "dvc.yaml").read_text())["stages"], given))


@pytest.mark.processes
def test_stages_run_without_dvc_and_hydra(root):
    modules = [path.stem for path in (root / "stages").glob("*.py")]
    wanted = sorted(set(modules) - {"__init__", "compose", "report"})
    program = f"import sys; sys.modules |= dict.fromkeys({MISSING})\n"
    program += "\n".join(f"import stages.{module}" for module in wanted)
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_compiled_code_and_pages_beside_code_rerun_nothing(toy):
    wing = Path("stages/wing")
    (wing / "__pycache__").mkdir(parents=True)
    (wing / "code.py").write_text("1")
    pipeline = TOY.replace("deps: [in]", "deps: [in, stages/wing]")
    assert toy(pipeline=pipeline)[0][0] == "first"
    (wing / "README.md").write_text("a page")
    (wing / "__pycache__/code.pyc").write_text("compiled")
    assert toy(pipeline=pipeline) == ([], 0)
    (wing / "code.py").write_text("2")
    assert toy(pipeline=pipeline)[0][0] == "first"
