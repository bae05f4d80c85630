"""Students side by side: each is what it is alone, whenever any of them stops, and one that diverges ends alone."""

import resource
import signal
import weakref
from contextlib import ExitStack
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.data.batches import evaluation_batches
from stages.core.distillation.against_teacher import evaluate_against_teacher
from stages.core.distillation.task import create_task
from stages.core.runtime.distributed import World
from stages.core.train import side_by_side
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.jobs import Job, check_batch_norm, check_images, check_together
from stages.core.train.loop import fit_together
from stages.core.train.sampler import EpochSampler
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from tests.sections import make_objective, make_recipe

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
NONE = make_objective(None)
STUDENTS = {
    "none": ("baseline", NONE),
    "mse": ("lift", make_objective("mse")),
    "spectral": ("widen", make_objective("spectral", alpha=0.5, blocks=["first", "last"])),
    "projected": ("baseline", make_objective("mse", alpha=0.5, tau=2.0, projector="linear", blocks=["first"])),
}
STEPS, EPOCHS = 4, 2
RECIPE = make_recipe(epochs=EPOCHS)


class Counted:
    """Training batches, or batches to evaluate on, that count how many were asked for."""

    def __init__(self, batches):
        self.batches, self.asked = batches, 0
        self.sampler = getattr(batches, "sampler", None)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return self._counted(self.batches)

    def epoch(self, number, start=0):
        return self._counted(self.batches.epoch(number, start))

    def _counted(self, batches):
        for batch in batches:
            self.asked += 1
            yield batch


@pytest.fixture
def train(tmp_path, splits, make_student, make_teacher):
    """Train students side by side; returns each one's result, weights and averaged weights, and what was counted."""

    def run(*names, root="checkpoints", device_batch=None, terminated=lambda: None, diverges=None, **options):
        models = {name: make_student(STUDENTS[name][0], drop_path_rate=0.2, proj_drop_rate=0.1) for name in names}
        teacher, passes = FrozenTeacher(make_teacher(), ["first", "last"], device=CPU), []
        teacher.register_forward_hook(lambda *_: passes.append(1))
        tasks = {
            name: create_task(models[name], teacher, STUDENTS[name][1], label_smoothing=0.1, device=CPU)
            for name in names
        }
        for name, at in (diverges or {}).items():
            spoil(tasks[name], at)
        sampler = EpochSampler(64, 0, batch=16, world=ALONE, device_batch=device_batch)
        batches = Counted(TrainingBatches(splits[0], models[names[0]], sampler, augment=RECIPE.augment, workers=0))
        validation = Counted(evaluation_batches(splits[1], models[names[0]], batch=8, workers=0))
        with ExitStack() as stack:
            trainings = []
            for name in names:
                checkpoints = stack.enter_context(CheckpointFolder(tmp_path / root, name, {"of": name}, {}))
                trainings.append(Training(tasks[name], checkpoints, RECIPE, sampler, seed=0, world=ALONE))
            fit_together(trainings, batches, validation, terminated=terminated, **options)
        results = {}
        for name, training in zip(names, trainings, strict=True):
            weights = [model.state_dict() for model in (tasks[name].trainable_module, training.ema_model)]
            results[name] = SimpleNamespace(
                history=training.state.history, weights=weights, failure=training.failure, state=training.state
            )
        return results, SimpleNamespace(batches=batches.asked, validation=validation.asked, passes=len(passes))

    return run


def spoil(task, at):
    """Let a task's loss be infinite from its call `at` on."""
    forward, calls = task.forward, count()
    task.forward = lambda *given: {"loss": forward(*given)["loss"] * (float("inf") if next(calls) >= at else 1)}


def assert_equal(found, expected):
    assert found.history == expected.history and len(found.history) == EPOCHS
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)


@pytest.fixture(scope="module")
def known():
    """Results of students that were trained alone; the images are the same in every test."""
    return {}


@pytest.fixture
def separate(train, known):
    """The results of training each student alone."""

    def run(*names, device_batch=None):
        for name in names or STUDENTS:
            if (name, device_batch) not in known:
                known[name, device_batch] = train(name, root="alone", device_batch=device_batch)[0][name]
        return {name: known[name, device_batch] for name in names or STUDENTS}

    return run


@pytest.mark.parametrize("device_batch", [None, 8])
def test_each_student_is_what_it_is_alone(train, separate, device_batch):
    alone = separate(device_batch=device_batch)
    together, asked = train(*STUDENTS, device_batch=device_batch)
    for name, expected in alone.items():
        assert_equal(together[name], expected)
    count = EPOCHS * STEPS * (16 // (device_batch or 16))  # micro-batches
    assert asked.batches == asked.passes == count  # of the images and of the teacher, once each
    assert asked.validation == EPOCHS * 2  # for four students, raw and averaged


def after(calls):
    said = count(1)
    return lambda: signal.SIGTERM if next(said) > calls else None


STOPPED = r"^stopped by SIGTERM; the same command resumes at step {}$"


def test_students_that_stop_anywhere_go_on_alone_or_together(train, separate):
    alone = separate()
    names = list(STUDENTS)
    with pytest.raises(UserError, match=STOPPED.format(7)):
        train("mse", terminated=after(4 + 2 + 1 + 2))  # asked after each step and validation batch, and after an epoch
    with pytest.raises(UserError, match=STOPPED.format(3)):
        train("none", terminated=after(2))
    with pytest.raises(UserError, match=STOPPED.format(2)):
        train(*names, terminated=after(1))  # the other two start; mse and none are further on, and wait
    with pytest.raises(UserError, match=STOPPED.format(4)):
        train(*names, terminated=after(3))  # none has joined, in the evaluation of the first epoch
    assert_equal(train("spectral")[0]["spectral"], alone["spectral"])
    together, asked = train(*reversed(names))  # one of which is finished
    for name, expected in alone.items():
        assert_equal(together[name], expected)
    assert asked.batches == STEPS


def test_finished_students_are_not_trained_again(train):
    names = list(STUDENTS)[:2]
    first, _ = train(*names)
    again, asked = train(*names, diverges=dict.fromkeys(names, 0))
    assert asked.batches == asked.passes == asked.validation == 0
    for name in names:
        assert_equal(again[name], first[name])


@pytest.mark.parametrize("at", [1, 5])
def test_a_student_that_diverges_ends_alone(train, separate, capsys, at):
    alone = separate("none", "spectral")
    capsys.readouterr()
    together, _ = train("none", "mse", "spectral", diverges={"mse": at}, checkpoint_s=0.0)
    for name, expected in alone.items():
        assert_equal(together[name], expected)
    reason = f"the loss is not finite at step {at} (epoch {at // STEPS}, batch {at % STEPS})"
    assert str(together["mse"].failure).startswith(reason)
    line = f"error: mse: {together['mse'].failure}; the others go on\n"
    assert capsys.readouterr().err == line and line.count("\n") == 1
    assert_equal(train("mse")[0]["mse"], separate("mse")["mse"])  # from a checkpoint of finite weights


def test_students_that_all_diverge_end_in_one_error(train):
    with pytest.raises(UserError) as caught:
        train("none", "mse", diverges={"none": 0, "mse": 6})
    reasons = [f"{name}: the loss is not finite at step {step} " for name, step in (("none", 0), ("mse", 6))]
    assert str(caught.value).startswith(f"2 of 2 runs ended early: {reasons[0]}") and reasons[1] in str(caught.value)
    with pytest.raises(UserError, match=r"^the loss is not finite at step 0 \(epoch 0, batch 0\); lower recipe\.lr"):
        train("none", root="other", diverges={"none": 0})


def test_a_full_disk_while_one_student_saves_harms_none(train, separate, tmp_path):
    alone = separate("none", "spectral")
    with pytest.raises(UserError, match=STOPPED.format(2)):
        train("none", "spectral", terminated=after(1))
    files = {name: next(tmp_path.glob(f"checkpoints/{name}-*/checkpoint.pt")) for name in alone}
    sizes = {name: file.stat().st_size for name, file in files.items()}
    assert sizes["none"] < sizes["spectral"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(sizes.values()) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"^no space left on the disk for .*spectral-.*checkpoint\.pt; free some"):
            train("none", "spectral", terminated=after(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for file in files.values():
        assert {path.name for path in file.parent.iterdir()} <= {"lock", "checkpoint.pt", "previous.pt", "run.json"}
    together, _ = train("none", "spectral")
    for name, expected in alone.items():
        assert_equal(together[name], expected)


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


class Held:
    """What a forward pass keeps for the backward pass; knows the most bytes that were kept at a time."""

    def __init__(self):
        self.bytes = self.peak = 0

    def pack(self, tensor):
        kept = Kept(tensor)
        size = tensor.numel() * tensor.element_size()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(kept, self.release, size)
        return kept

    def release(self, size):
        self.bytes -= size

    def unpack(self, kept):
        return kept.tensor


def test_the_activations_of_one_student_are_held_at_a_time(train):
    peaks = {}
    for names in (*[[name] for name in STUDENTS], list(STUDENTS)):
        held = Held()
        with torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack):
            train(*names, root="-".join(names))
        peaks["-".join(names)] = held.peak
    assert peaks.pop("-".join(STUDENTS)) == max(peaks.values())


def test_students_share_the_time_of_their_steps(train, monkeypatch):
    ticks = count()
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: float(next(ticks)))
    rates = {name: result.state.images_per_s for name, result in train("none", "mse")[0].items()}
    assert rates["none"] == rates["mse"] == 16 * STEPS / 0.5  # a tick an epoch, of which each has half


def test_the_last_evaluation_of_several_students_is_that_of_each(make_student, teacher, images):
    students = [make_student(strategy) for strategy in ("baseline", "lift", "widen")]
    batches = [(images, torch.arange(len(images)))]
    for student, found in zip(students, evaluate_against_teacher(students, teacher, batches, ALONE), strict=True):
        (expected,) = evaluate_against_teacher([student], teacher, batches, ALONE)
        assert found.metrics == expected.metrics and (found.predictions == expected.predictions).all()


@pytest.fixture
def jobs(tmp_path, make_student):
    def make(name, strategy, **changes):
        identity = {"student": strategy, "objective": name, "seed": 0, "recipe": {"lr": 1.0}, "teacher": "digest"}
        create = lambda: (make_student(strategy), {})  # noqa: E731
        return Job(name, create, tmp_path, NONE, 0, identity | changes, [], "stages.train", "")

    return make("a", "baseline"), make


@pytest.mark.parametrize("machine", [{"micro_batches": 2, "processes": 1}, {"micro_batches": 1, "processes": 2}])
def test_batch_normalisation_sees_whole_batches_or_training_is_refused(jobs, make_student, machine):
    first, _ = jobs
    normalised = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    check_batch_norm(first, make_student("baseline"), **machine)
    check_batch_norm(first, normalised, micro_batches=1, processes=1)
    with pytest.raises(UserError, match=r"^a: its BatchNorm normalises over what a process takes at a time"):
        check_batch_norm(first, normalised, **machine)


def test_only_runs_of_the_same_images_and_teacher_are_trained_together(jobs, make_student):
    first, make = jobs
    check_together([first, make("b", "lift")])
    with pytest.raises(UserError, match=r"^a is given twice; name each run once$"):
        check_together([first, make("b", "lift"), first])
    faults = {"seed": {"seed": 1}, "recipe.lr": {"recipe": {"lr": 2.0}}, "teacher": {"teacher": "other"}}
    for key, changes in faults.items():
        with pytest.raises(UserError, match=rf"b differs from a in {key}; train it by a command of its own$"):
            check_together([first, make("b", "lift", **changes)])
    models = [make_student("baseline"), make_student("lift")]
    models[1].pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    with pytest.raises(UserError, match=r"b differs from a in its model's mean; train it"):
        check_images([first, make("b", "lift")], models)
