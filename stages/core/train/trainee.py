"""One model in training, alone or beside others: its optimizer steps, each with the random numbers it has alone."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from stages.core.runtime.distributed import World
from stages.core.train.batches import default_generator
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.drop_path import DropPathMasks
from stages.core.train.evaluation import DivergedError
from stages.core.train.optimization import Optimization
from stages.core.train.sampler import EpochSampler
from stages.core.train.state import TrainingState
from stages.core.train.tasks import bare_model
from stages.core.train.teacher import TeacherOutput


@dataclass(frozen=True)
class Trainee:
    """A model to train.

    Attributes:
        task: the model and its loss, on the device of this process.
        checkpoints: where to save and to resume from.
        decay_embeddings: whether position embedding and class token are decayed too.
        log: called with the metrics of each epoch, including those from before an interruption.
        keep: called after each epoch with the number of epochs done, before any checkpoint says that it is done.
    """

    task: TrainingTask
    checkpoints: CheckpointFolder
    decay_embeddings: bool = False
    log: Callable[[dict[str, float]], None] = lambda _: None
    keep: Callable[[int], None] = lambda _: None


class Training:
    """One model's training: where it is, and how it takes a step.

    Nothing here depends on the models that are trained beside it: optimizer, averaged weights, masks of drop path and
    random state are its own.

    Attributes:
        name: of the run.
        state: the position, and what is saved of it.
        models: the models to evaluate after an epoch, by the suffix of their metrics.
        failure: why the training ended early; None as long as it has not.
        warming_up: whether the next step compiles the model, so that its images and its time are not counted.

    Args:
        trainee: the model, with what belongs to it alone.
        sampler: of the training batches.
        optimization: what the optimizer does.
        seed: of drop path and of layers that draw.
        world: the processes that train together.
        compiled: whether to compile student and teacher.

    Raises:
        UserError: the checkpoint that is adopted does not fit.
    """

    def __init__(
        self,
        trainee: Trainee,
        sampler: EpochSampler,
        optimization: Optimization,
        *,
        seed: int,
        world: World,
        compiled: bool,
    ) -> None:
        self.task, self.log, self.keep, self.name = trainee.task, trainee.log, trainee.keep, trainee.checkpoints.run
        self.sampler, self.optimization, self.seed, self.world = sampler, optimization, seed, world
        self.failure: DivergedError | None = None
        self.warming_up = compiled
        student = bare_model(self.task)
        self.models: dict[str, nn.Module] = {"": student}
        self.masks = DropPathMasks(student, sampler, seed)
        if optimization.ema_decay is not None:
            self.task.setup_ema(decay=optimization.ema_decay)
            self.models["_ema"] = bare_model(self.task, ema=True)
        self.optimizer = optimization.optimizer(self.task, decay_embeddings=trainee.decay_embeddings)
        self.scheduler = optimization.scheduler(self.optimizer, sampler.steps)
        self.state = TrainingState(self.task, self.optimizer, sampler, trainee.checkpoints, world)
        self.state.restore()
        for metrics in self.state.history:
            self.log(metrics)
        if compiled:
            self.task.compile()
        if world.size > 1:
            self.task.prepare_distributed(device_ids=[world.device] if world.device.type == "cuda" else None)
        self.generator = default_generator(world.device)
        self.random_state: Tensor | None = None  # of the generator between two pieces
        self.autocast = optimization.autocast(world.device)

    def start_epoch(self, epoch: int) -> None:
        """Prepare for the steps of an epoch."""
        self.task.train()
        self.scheduler.step(max(0, epoch - 1))  # does nothing where the rate changes with every step

    def take(self, images: Tensor, labels: Tensor, taught: TeacherOutput | None, piece: int) -> None:
        """Compute the gradients of one piece of a global batch, and after the last piece take the step.

        Args:
            images, labels: of the piece.
            taught: the teacher's output for them; None where the task has no teacher.
            piece: its number in this process's part of the batch, from 0.
        """
        state, pieces = self.state, self.sampler.pieces
        last = piece == pieces - 1
        if piece == 0:
            self.generator.manual_seed(_random_seed(self.seed, state.step, self.world.rank))  # drop path apart
            self.scheduler.step_update(state.step)  # does nothing where the rate changes with every epoch
            self.optimizer.zero_grad()
        elif self.random_state is not None:
            self.generator.set_state(self.random_state)
        self.masks.set(state.step, piece)
        with nullcontext() if last else self.task.no_sync():
            with self.autocast:
                given = () if taught is None else (taught,)
                loss = self.task(images, labels, *given)["loss"] / pieces
            loss.backward()
        state.losses[state.steps_done] += loss.detach()
        if not last:
            self.random_state = self.generator.get_state()
            return
        if self.optimization.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.task.get_clip_parameters(), self.optimization.clip_grad)
        self.optimizer.step()
        state.step += 1
        self.task.update_ema(state.step if self.optimization.ema_start == "first_step" else None)  # timm copies at 1

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """What an epoch's steps say: epoch, lr, train_loss."""
        rate = self.optimizer.param_groups[0]["lr"]
        return {"epoch": epoch, "lr": rate, "train_loss": self.state.losses.mean().item()}


def _random_seed(*key: int) -> int:
    """A 64-bit random seed that is a function of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
