"""Every kind of run from its first step to the tables, and what remains of one that fails after its last step."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from itertools import count, product
from pathlib import Path

import lifecycle
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from lifecycle import OBJECTIVES, STRATEGIES

from stages.core.base.errors import UserError
from stages.core.base.names import Run
from stages.core.config import params
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.distillation import balanced_targets, lessons
from stages.core.models import folders
from stages.core.runtime.distributed import World
from stages.core.train import fitting, loop, outputs
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.jobs import Job
from stages.paths import ENCODE, MANIFEST, PARAMS, PREPARE, RESULTS, run_folder

pytestmark = pytest.mark.processes

SEED_0 = Path("artifacts/train/0")
ALONE = World(0, 1, torch.device("cpu"))
EMA_DECAY = {0: 0.5, 1: None, 2: None, 3: 0.5}  # by seed
IN_TWO_PROCESSES = (1, 3)  # the seeds that are trained so, the others in one process
OTHERS = ("widen_linear",)  # strategies of seeds 2 and 3, so that each pair of ways is tried; nightly, all


@pytest.fixture(scope="module")
def environment():
    torch.set_num_threads(1)  # as for each test: what fixtures train is compared bit for bit
    with pytest.MonkeyPatch.context() as patch, lifecycle.shortened():
        for name in ("DVC_ROOT", "FRESH", "ADOPT", "DEVICE_BATCH", "COMPILE"):
            patch.delenv(name, raising=False)
        patch.setenv("DEVICE", "cpu")
        patch.setenv("WORKERS", "0")
        patch.setenv("PYTHONPATH", str(lifecycle.ROOT))
        patch.setattr("stages.core.runtime.machine.share_cores", lambda *_, **__: None)
        before = Path.cwd()
        yield patch
        os.chdir(before)


@pytest.fixture(scope="module")
def started(environment, request, tmp_path_factory):
    """A project in which everything but students is there."""
    folder = tmp_path_factory.mktemp("started")
    others = STRATEGIES if request.config.getoption("nightly") else OTHERS
    lifecycle.write_params(folder, ema_decay=0.5, strategies={0: STRATEGIES, 1: STRATEGIES, 2: others, 3: others})
    lifecycle.start(folder)
    return folder


def copied(project, folder):
    """A copy of a project; its images, which no run changes, are those of the project."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(PREPARE.name))
    (folder / PREPARE).symlink_to(project / PREPARE)
    return folder


@pytest.fixture(scope="module")
def finished(started, environment, tmp_path_factory):
    """A project in which every run is trained, encoded and summarized."""
    folder = copied(started, tmp_path_factory.mktemp("finished") / "project")
    decays = [f"{seed}:{EMA_DECAY[seed] or ''}" for seed in IN_TWO_PROCESSES]
    command = [sys.executable, lifecycle.__file__, str(folder), *decays]
    together = subprocess.Popen(
        command, env={**os.environ, "PROCESSES": "2"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with environment.context() as patch:
        patch.setitem(sys.modules, "dvclive", None)
        alone = {seed: decay for seed, decay in EMA_DECAY.items() if seed not in IN_TWO_PROCESSES}
        lifecycle.train_all(folder, alone, ALONE)
    output, _ = together.communicate(timeout=600)
    assert together.returncode == 0, output
    lifecycle.analyse(folder)
    return folder


def runs_of(project):
    """The runs of a project: strategy, objective, seed."""
    return params.load(project / PARAMS).grid.listed()


def test_every_run_is_saved_as_a_model_that_has_the_accuracy_it_records(finished):
    os.chdir(finished)
    data = params.load(PARAMS).dataset
    images = image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST)
    labels = np.array(images.labels)
    batches = None
    assert {run[:2] for run in runs_of(finished) if run.seed == 1} == set(product(STRATEGIES, OBJECTIVES))
    for run in runs_of(finished):
        folder = run_folder(run)
        metrics = json.loads((folder / "metrics.json").read_text())
        decay = EMA_DECAY[run.seed]
        assert (folder / "ema").is_dir() == (decay is not None)
        for place, suffix in ((folder, ""), (folder / "ema", "_ema")) if decay else ((folder, ""),):
            model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
            batches = batches or evaluation_batches(images, model, batch=len(labels), workers=0)
            with torch.no_grad():
                predicted = torch.cat([model(one) for one, _ in batches]).argmax(1).numpy()
            assert metrics[f"top1{suffix}"] == pytest.approx(100 * np.mean(predicted == labels), abs=1e-4), folder
            if not suffix:
                assert (np.load(folder / "predictions.npy") == predicted).all()
        curves = pd.read_csv(folder / "curves.csv")
        assert list(curves["epoch"]) == [0] and ("top1_ema" in curves) == (decay is not None)
        assert "adopted" not in metrics
        assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))


def test_every_run_reaches_the_tables(finished):
    names = {run.name for run in runs_of(finished)}
    encoded = json.loads((finished / ENCODE / "metrics.json").read_text())["runs"]
    assert {row["run"] for row in encoded} == names | {"teacher"}
    for table in ("runs", "curves", "encoding"):
        found = pd.read_csv(finished / RESULTS / f"{table}.csv")
        assert set(found["run"]) - {"teacher"} == names, table
    runs = pd.read_csv(finished / RESULTS / "runs.csv").set_index("run")
    for name in names:
        metrics = json.loads((finished / run_folder(Run.named(name)) / "metrics.json").read_text())
        assert runs.loc[name, "top1"] == pytest.approx(metrics["top1"], rel=1e-5)


class FailedError(Exception):
    pass


def contents(folder):
    """Contents of a run's files: all of them are the same every time."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(started, tmp_path_factory):
    """What the run of the following test leaves when nothing fails."""
    return train_one(copied(started, tmp_path_factory.mktemp("whole") / "project"))


def train_one(folder, objective="mse", strategy="lift"):
    from stages.train import train_runs

    os.chdir(folder)
    run = Run(strategy, objective, 0)
    train_runs(params.load(PARAMS), [run], ALONE)
    return contents(folder / run_folder(run))


TOGETHER = [("lift", "mse", 0), ("baseline", "none", 0), ("widen", "softkd_spectral", 0)]


def train_side_by_side(folder):
    from stages.train import train_runs

    os.chdir(folder)
    train_runs(params.load(PARAMS), [Run(*named) for named in TOGETHER], ALONE)


def test_runs_side_by_side_leave_what_each_leaves_alone(started, uninterrupted, tmp_path, environment):
    """And the command of each then takes its result from its checkpoint."""
    folder = shutil.copytree(started, tmp_path / "project")
    train_side_by_side(folder)
    found = {named: contents(folder / run_folder(Run(*named))) for named in TOGETHER}
    assert found["lift", "mse", 0] == uninterrupted
    separate = shutil.copytree(started, tmp_path / "separate")
    assert found["widen", "softkd_spectral", 0] == train_one(separate, "softkd_spectral", "widen")
    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained again"))
        for strategy, objective, seed in TOGETHER:
            shutil.rmtree(folder / run_folder(Run(strategy, objective, seed)))
            assert train_one(folder, objective, strategy) == found[strategy, objective, seed]


def test_finished_output_that_was_altered_or_that_other_code_wrote_is_written_again_without_training(
    started, uninterrupted, tmp_path, environment, capsys
):
    folder = copied(started, tmp_path / "project")
    assert train_one(folder) == uninterrupted
    (output,) = folder.glob(".ckpt/lift-mse-0-*/output")
    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained again"))
        (output / "metrics.json").write_text("{}")
        assert train_one(folder) == uninterrupted
        assert f"{output.relative_to(folder)} was altered; it is written again" in capsys.readouterr().err
        patch.setattr(Job, "written_by", lambda _: "other code")
        evaluated = []
        patch.setattr(outputs, "write_card", lambda *_, **__: evaluated.append(True))
        found = train_one(folder)
        assert evaluated and {name: found.get(name) for name in found} == {name: uninterrupted[name] for name in found}
        assert train_one(folder) == found and len(evaluated) == 1


def test_a_changed_objective_trains_its_own_students_alone(started, tmp_path, environment):
    folder = copied(started, tmp_path / "project")
    train_side_by_side(folder)
    others = {name: contents(folder / SEED_0 / name) for name in ("baseline-none-0", "widen-softkd_spectral-0")}
    before = contents(folder / SEED_0 / "lift-mse-0")
    content = yaml.safe_load((folder / PARAMS).read_text())
    content["objective"]["definitions"]["mse"]["feature_weight"] = 1.0
    (folder / PARAMS).write_text(yaml.safe_dump(content))
    step, steps = torch.optim.AdamW.step, count()
    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *given, **options: (next(steps), step(*given, **options))[1])
        train_side_by_side(folder)
    assert next(steps) == 2  # of the one student
    assert {name: contents(folder / SEED_0 / name) for name in others} == others
    assert contents(folder / SEED_0 / "lift-mse-0")["model.safetensors"] != before["model.safetensors"]


def test_a_run_that_diverges_beside_others_alone_has_no_results(started, uninterrupted, tmp_path, environment):
    folder = shutil.copytree(started, tmp_path / "project")
    step, steps = torch.optim.AdamW.step, count(1)

    def diverging(optimizer, *arguments, **options):
        step(optimizer, *arguments, **options)
        if next(steps) == 5:  # the second student's second step
            optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", diverging)
        with pytest.raises(UserError) as caught:
            train_side_by_side(folder)
    start = "1 of 3 runs ended early; the others are finished: baseline-none-0: the weights are not finite after "
    assert str(caught.value).startswith(start)
    assert contents(folder / SEED_0 / "lift-mse-0") == uninterrupted
    assert {path.name for path in (folder / SEED_0).iterdir()} == {"lift-mse-0", "widen-softkd_spectral-0"}


def test_students_that_are_not_there_or_cannot_be_trained_together_end_in_one_line(started, environment):
    from stages import train as stage

    os.chdir(started)
    faults = [
        (("--seed", "7"), "--seed 7: no run of grid.runs in params.yaml has it; its seeds are 0, 1, 2, 3"),
        (("--seed", "2", "--only", "widen_linear-mse-0"), "--only widen_linear-mse-0: the runs of seed 2 are "),
    ]
    for arguments, reason in faults:
        with pytest.raises(UserError) as caught:
            lifecycle.stage(stage.main, *arguments)
        assert reason in str(caught.value) and "\n" not in str(caught.value)
    settings, both = params.load(PARAMS), [Run("lift", "mse", 0), Run("lift", "mse", 1)]
    with pytest.raises(UserError, match=r"^runs that .* lift-mse-1 differs from lift-mse-0 in seed; train it by a"):
        stage.train_runs(settings, both, ALONE)
    assert not list(started.glob(".ckpt/lift-mse-*"))


# What is called after the last optimizer step, and at which of its calls it fails.
AFTER_THE_LAST_STEP = [
    (CheckpointFolder, "save", 1),
    (loop, "evaluate_together", 0),
    (loop, "check_finite", 0),
    (loop.Progress, "finished", 0),
    (lessons, "evaluate_against_teacher", 0),
    (outputs, "parameters", 0),
    (outputs, "flops", 0),
    (folders, "save", 0),
    (folders, "save", 1),
    (folders, "save", 2),  # the first is of the kept epoch
    (outputs, "write_npy", 0),
    (outputs, "write_json", 0),
    (outputs, "write_csv", 0),
    (shutil, "copytree", 0),
    (Path, "rename", 0),
    (CheckpointFolder, "__exit__", 0),
]


def test_a_failure_after_the_last_step_costs_no_training(started, uninterrupted, tmp_path, environment):
    for place, name, position in AFTER_THE_LAST_STEP:
        folder = copied(started, tmp_path / f"{place.__name__}.{name}-{position}")
        calls, original = count(), getattr(place, name)

        def fails(*arguments, calls=calls, original=original, position=position, **options):
            if next(calls) == position:
                raise FailedError
            return original(*arguments, **options)

        with environment.context() as patch:
            patch.setattr(place, name, fails)
            with pytest.raises(FailedError):
                train_one(folder)
        with environment.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained again"))
            assert train_one(folder) == uninterrupted, (name, position)


def test_weights_that_the_last_step_makes_infinite_end_in_one_line(started, tmp_path, environment):
    folder = copied(started, tmp_path / "project")
    step, steps = torch.optim.AdamW.step, count(1)

    def diverging(optimizer, *arguments, **options):
        step(optimizer, *arguments, **options)
        if next(steps) == 2:
            optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", diverging)
        patch.setenv("CHECKPOINT_MINUTES", "0")
        with pytest.raises(UserError, match=r"^the weights are not finite after step 1 \(epoch 0\); lower recipe\.lr"):
            train_one(folder)
    (saved,) = folder.glob(".ckpt/lift-mse-0-*/checkpoint.pt")
    state = torch.load(loadable(saved), weights_only=True)["state"]
    assert state["step"] == 1 and all(value.isfinite().all() for value in state["state_dict"].values())
    assert not (folder / SEED_0 / "lift-mse-0").exists()


@pytest.mark.parametrize("objective", ["projector", "softkd_orthogonal_projector", "balanced_mse", "principal_mse"])
def test_what_is_trained_beside_the_student_resumes_with_it(started, tmp_path, environment, objective):
    """Interrupted between its two steps, a run resumes with the projector, its moments and the target's statistics."""
    whole = train_one(copied(started, tmp_path / "whole"), objective, "baseline")
    folder, step, steps = copied(started, tmp_path / "project"), torch.optim.AdamW.step, count(1)

    def failing(optimizer, *arguments, **options):
        if next(steps) == 2:
            raise FailedError
        return step(optimizer, *arguments, **options)

    with environment.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", failing)
        patch.setenv("CHECKPOINT_MINUTES", "0")
        with pytest.raises(FailedError):
            train_one(folder, objective, "baseline")
    with environment.context() as patch:  # from now on, statistics would be others: the checkpoint's are used
        patch.setattr(balanced_targets, "IMAGES", 3)
        assert train_one(folder, objective, "baseline") == whole
    state = timm.create_model(f"local-dir:{folder / run_folder(Run('baseline', objective, 0))}").state_dict()
    assert not [name for name in state if "project" in name]


def test_a_loss_over_the_whole_batch_takes_no_micro_batches(started, tmp_path, environment):
    folder = copied(started, tmp_path / "project")
    with environment.context() as patch:
        patch.setenv("DEVICE_BATCH", "2")
        with pytest.raises(UserError, match=r"batch_normalized_mse normalises over the whole batch"):
            train_one(folder, "frozen_projector", "baseline")
    assert not (folder / SEED_0).exists()


def loadable(file):
    """A checkpoint without its digest."""
    content = file.with_suffix(".content")
    content.write_bytes(file.read_bytes()[32:])
    return content


def test_a_log_file_has_the_device_and_a_line_per_epoch(started, tmp_path, capsys, environment):
    folder = copied(started, tmp_path / "project")
    with environment.context() as patch:
        patch.delenv("CI", raising=False)
        train_one(folder)
    first, line, last = capsys.readouterr().out.splitlines()
    assert first == "lift-mse-0 on cpu: 1 epoch"
    assert line.startswith("lift-mse-0: epoch 1/1, training loss ")
    assert re.fullmatch(r"lift-mse-0: top-1 [\d.]+ %, [\d,]+ images/s -> artifacts/train/0/lift-mse-0", last)


@pytest.mark.parametrize("strategy", ["half", "copy"])
def test_copy_starts_from_the_teachers_weights_and_half_does_not(started, tmp_path, environment, strategy):
    import stages.train

    folder, calls = shutil.copytree(started, tmp_path / "project"), []
    os.chdir(folder)
    settings = params.load(PARAMS)
    with environment.context() as patch:
        patch.setattr(stages.train, "fit_and_save", lambda jobs, lessons, **_: calls.append((*jobs, lessons.teacher)))
        stages.train.train_runs(settings, [Run(strategy, "mse", 0)], ALONE)
    ((job, teacher),) = calls
    student, record = job.create()
    assert len(student.blocks) == 1 and len(teacher.blocks) == 2
    wanted = {name: value for name, value in teacher.state_dict().items() if not name.startswith("blocks.1.")}
    if strategy == "half":
        architecture, arguments = settings.student.model(strategy, settings.teacher)
        fresh = folders.create(
            architecture, arguments, seed=0, **fitting.model_options(settings.dataset, settings.recipe)
        )
        wanted = fresh.state_dict()
    found = student.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert record.get("copied_blocks") == ([0] if strategy == "copy" else None)
    assert job.identity["copies_teacher"] == ("stages.core.models.copying" in job.modules) == (strategy == "copy")


@pytest.fixture
def long(started, tmp_path):
    """Copies of a project whose runs have three epochs, and keep the models that they are asked to keep."""

    def make(name, kept):
        folder = shutil.copytree(started, tmp_path / name)
        content = yaml.safe_load((folder / PARAMS).read_text())
        content["recipe"] |= {"epochs": 3, "keep_epochs": kept, "ema_decay": None}
        (folder / PARAMS).write_text(yaml.safe_dump(content))
        return folder

    return make


def kept_weights(folder, strategy="copy"):
    found = folders.kept_epochs(folder / SEED_0 / f"{strategy}-mse-0")
    return {epochs: folders.load(path).state_dict() for epochs, path in found.items()}


def evaluated_weights(patch, fail_at=None):
    """The student's weights at each evaluation from now on; the one of the given number fails."""
    seen, original = [], loop.evaluate_together

    def noted(models, *arguments):
        seen.append({name: value.clone() for name, value in models[0].state_dict().items()})
        if len(seen) == fail_at:
            raise FailedError
        return original(models, *arguments)

    patch.setattr(loop, "evaluate_together", noted)
    return seen


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_kept_models_are_those_of_their_epochs_and_change_no_result(long, environment):
    whole, plain = long("whole", [1, 2, 3]), long("plain", [])
    with environment.context() as patch:
        seen = evaluated_weights(patch)
        files = train_one(whole, strategy="copy")
    kept = kept_weights(whole)
    assert list(kept) == [1, 2, 3] and len(seen) == 3
    for epochs, weights in kept.items():
        assert_same(weights, seen[epochs - 1])
    assert json.loads(files["metrics.json"])["copied_blocks"] == [0]
    plain_files = train_one(plain, strategy="copy")
    assert {name: file for name, file in files.items() if not name.startswith("epochs/")} == plain_files


@pytest.mark.parametrize("adopted", [False, True])
def test_a_resumed_run_keeps_the_models_of_the_epochs_before_too(long, environment, adopted):
    whole, resumed = long("whole", [1, 3]), long("resumed", [1, 3])
    train_one(whole, strategy="copy")
    with environment.context() as patch:
        patch.setattr(fitting, "EPOCH_CHECKPOINT_S", 0.0)
        evaluated_weights(patch, fail_at=2)
        with pytest.raises(FailedError):
            train_one(resumed, strategy="copy")
    assert not (resumed / SEED_0 / "copy-mse-0").exists()
    with environment.context() as patch:
        if adopted:
            patch.setattr("stages.core.train.fingerprints.version", lambda name: f"another {name}")
            patch.setenv("ADOPT", "1")
        seen = evaluated_weights(patch)
        train_one(resumed, strategy="copy")
    assert len(seen) == 2  # the second epoch's evaluation is repeated, the first epoch's is not
    expected, found = kept_weights(whole), kept_weights(resumed)
    assert list(found) == list(expected) == [1, 3]
    for epochs in expected:
        assert_same(found[epochs], expected[epochs])


def test_a_kept_model_that_was_deleted_is_one_line(long, environment):
    folder = long("project", [1, 3])
    with environment.context() as patch:
        patch.setattr(fitting, "EPOCH_CHECKPOINT_S", 0.0)
        evaluated_weights(patch, fail_at=3)
        with pytest.raises(FailedError):
            train_one(folder, strategy="copy")
    (kept,) = folder.glob(".ckpt/copy-mse-0-*/epochs/00001")
    shutil.rmtree(kept)
    with pytest.raises(UserError, match="epochs/00001, a model that was kept, is gone; start over with FRESH=1"):
        train_one(folder, strategy="copy")
    assert not (folder / SEED_0 / "copy-mse-0").exists()


def test_kept_epochs_reach_the_tables_and_are_what_the_last_one_says(finished):
    """Every run has one epoch, so that its kept model is its last one."""
    final = pd.read_csv(finished / RESULTS / "blocks.csv")
    kept = pd.read_csv(finished / RESULTS / "kept_blocks.csv")
    assert set(kept["run"]) == {run.name for run in runs_of(finished) if EMA_DECAY[run.seed]}
    assert set(kept["epoch"]) == {1}
    students = final[final["run"].isin(kept["run"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.drop(columns="epoch"), students, check_dtype=False)
