"""What counts as training time, and when a checkpoint is worth its time."""

import signal
import time
from types import SimpleNamespace

import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train import loop, side_by_side
from stages.core.train.tasks import labels_task
from stages.core.train.training import Training
from tests.sections import make_recipe

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
BATCH, STEPS = 4, 3
SAMPLER = SimpleNamespace(batch=BATCH, micro_batches=1, steps=STEPS)


class Batches:
    """The same images at each step."""

    sampler = SAMPLER

    def epoch(self, number, start=0):
        for _ in range(start, STEPS):
            yield torch.zeros(BATCH, 3, 8, 8), torch.zeros(BATCH, dtype=torch.long)


class Checkpoints:
    """Checkpoints in memory; notes after how many steps and epochs each was saved."""

    run, source = "run", None

    def __init__(self):
        self.saved = []

    def load(self):
        return None

    def save(self, state):
        self.saved.append((state["step"], len(state["history"])))


@pytest.fixture
def fit(make_student):
    """Train a small student; returns its state, or the error, and the moments of its checkpoints."""

    def run(*, epochs=2, ema_decay=None, compiled=False, validation=None, **options):
        checkpoints = Checkpoints()
        recipe = make_recipe(epochs=epochs, ema_decay=ema_decay, weight_decay=0.0, warmup_epochs=0, clip_grad=None)
        task = labels_task(make_student("baseline"), 0.1, CPU)
        training = Training(task, checkpoints, recipe, SAMPLER, seed=0, world=ALONE, compiled=compiled)
        validation = validation or [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))]
        try:
            loop.fit_together([training], Batches(), validation, **options)
        except UserError as error:
            return error, checkpoints.saved
        return training.state, checkpoints.saved

    return run


def test_the_clock_is_read_when_the_device_is_done(fit, monkeypatch):
    monkeypatch.setattr(side_by_side, "_wait_for", lambda _: time.sleep(0.5))  # what the device still has to do
    state, _ = fit()
    assert state.images_per_s < STEPS * BATCH / 0.5


def test_compilation_is_not_counted(fit, monkeypatch):
    waits = []

    def compile_at_first(task, **_):
        forward = task.trainable_module.forward

        def slow(images):
            if not waits:
                waits.append(time.sleep(3.0))
            return forward(images)

        task.trainable_module.forward = slow

    monkeypatch.setattr("timm.task.ClassificationTask.compile", compile_at_first)
    counted = []
    monkeypatch.setattr(
        side_by_side.Group,
        "finish_steps",
        lambda group, *_, **__: (group.count(), counted.append(group.trainings[0].state.images)),
    )
    state, _ = fit(compiled=True)
    assert waits and counted == [(STEPS - 1) * BATCH, (2 * STEPS - 1) * BATCH]
    assert counted[-1] / state.images_per_s < 3.0


def test_images_are_decoded_once_for_raw_and_averaged_weights(fit):
    class Counted(list):
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return super().__iter__()

    batch = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    state, _ = fit(ema_decay=0.5, validation=Counted([batch]))
    assert Counted.passes == 2  # one an epoch
    assert {"loss", "loss_ema"} <= set(state.history[0])
    assert state.history[0]["loss"] != state.history[0]["loss_ema"]


def test_short_epochs_save_at_the_end_alone(fit):
    assert fit(epochs=3, epoch_checkpoint_s=600.0)[1] == [(9, 2), (9, 3)]
    assert fit(epochs=3)[1] == [(3, 0), (6, 1), (9, 2), (9, 3)]


@pytest.mark.parametrize("asked", [1, 3, 4, 5, 6, 9])
def test_a_run_that_is_stopped_saves_first_however_short_its_epochs_are(fit, asked):
    answers = iter([None] * (asked - 1) + [signal.SIGTERM])
    error, saved = fit(epoch_checkpoint_s=600.0, terminated=lambda: next(answers))
    epoch, position = divmod(asked - 1, STEPS + 2)  # asked after each step, after the evaluation batch and at the end
    steps = epoch * STEPS + min(position + 1, STEPS)
    assert str(error) == f"stopped by SIGTERM; the same command resumes at step {steps}"
    assert saved[-1] == (steps, epoch + (position == STEPS + 1))
