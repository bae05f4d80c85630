"""One model in training, alone or beside others: its optimizer steps, each with the random numbers it has alone."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from stages.core.base.files import atomic_folder
from stages.core.config.schema import Recipe
from stages.core.models import folders
from stages.core.runtime.distributed import World
from stages.core.train import optimization
from stages.core.train.batches import default_generator
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.drop_path import DropPathMasks
from stages.core.train.evaluation import DivergedError
from stages.core.train.sampler import EpochSampler
from stages.core.train.state import TrainingState
from stages.core.train.tasks import bare_model
from stages.core.train.teacher import TeacherOutput


class Training:
    """One model in training: where it is, how it takes a step, and what it has come to.

    Nothing here depends on the models that are trained beside it: optimizer, averaged weights, masks of drop path and
    random state are its own.

    Attributes:
        run: its name.
        model: the timm model.
        ema_model: the model with averaged weights; None without an EMA.
        state: the position, and what is saved of it.
        failure: why the training ended early; None as long as it has not.
        warming_up: whether the next step compiles the model, so that its images and its time are not counted.

    Args:
        task: the model and its loss, on the device of this process.
        checkpoints: where to save and to resume from.
        recipe: a section of params.
        sampler: of the training batches.
        seed: of drop path and of layers that draw.
        world: the processes that train together.
        record: entries of metrics.json that describe the run, beside what is measured.
        compiled: whether to compile student and teacher.
        log: called with the metrics of each epoch, including those from before an interruption.
    """

    def __init__(
        self,
        task: TrainingTask,
        checkpoints: CheckpointFolder,
        recipe: Recipe,
        sampler: EpochSampler,
        *,
        seed: int,
        world: World,
        record: Mapping[str, Any] | None = None,
        compiled: bool = False,
        log: Callable[[Mapping[str, float]], None] = lambda _: None,
    ) -> None:
        self.task, self.checkpoints, self.recipe, self.sampler = task, checkpoints, recipe, sampler
        self.seed, self.world, self.record, self.log = seed, world, record or {}, log
        self.run = checkpoints.run
        self.failure: DivergedError | None = None
        self.compiled = self.warming_up = compiled
        self.model: nn.Module = bare_model(task)
        self.ema_model: nn.Module | None = None
        self.masks = DropPathMasks(self.model, sampler, seed)
        if recipe.ema_decay is not None:
            task.setup_ema(decay=recipe.ema_decay)
            self.ema_model = bare_model(task, ema=True)
        self.optimizer = optimization.optimizer(recipe, task)
        self.scheduler = optimization.scheduler(recipe, self.optimizer, sampler.steps)
        self.autocast = optimization.autocast(recipe, world.device)
        self.state = TrainingState(task, self.optimizer, sampler, checkpoints, world)
        self.generator = default_generator(world.device)
        self.random_state: Tensor | None = None  # of the generator between two micro-batches

    @property
    def evaluated(self) -> dict[str, nn.Module]:
        """The models to evaluate after an epoch, by the suffix of their metrics."""
        return {"": self.model} | ({} if self.ema_model is None else {"_ema": self.ema_model})

    def start(self) -> None:
        """Resume from the last checkpoint, if there is one, and prepare for steps.

        Raises:
            UserError: the checkpoint that is adopted does not fit.
        """
        self.state.restore()
        for metrics in self.state.history:
            self.log(metrics)
        if self.compiled:
            self.task.compile()
        if self.world.size > 1:
            self.task.prepare_distributed(device_ids=[self.world.device] if self.world.device.type == "cuda" else None)

    def start_epoch(self, epoch: int) -> None:
        """Prepare for the steps of an epoch."""
        self.task.train()
        self.scheduler.step(max(0, epoch - 1))  # does nothing where the rate changes with every step

    def take(self, images: Tensor, labels: Tensor, teacher_output: TeacherOutput | None, number: int) -> None:
        """Compute the gradients of one micro-batch, and after a batch's last one take the step.

        Args:
            images, labels: of the micro-batch.
            teacher_output: for these images; None where the task has no teacher.
            number: of the micro-batch in this process's part of the global batch, from 0.
        """
        state, micro_batches = self.state, self.sampler.micro_batches
        last = number == micro_batches - 1
        if number == 0:
            self.generator.manual_seed(_random_seed(self.seed, state.step, self.world.rank))  # drop path apart
            self.scheduler.step_update(state.step)  # does nothing where the rate changes with every epoch
            self.optimizer.zero_grad()
        elif self.random_state is not None:
            self.generator.set_state(self.random_state)
        self.masks.set(state.step, number)
        with nullcontext() if last else self.task.no_sync():
            with self.autocast:
                distilled = () if teacher_output is None else (teacher_output,)
                loss = self.task(images, labels, *distilled)["loss"] / micro_batches
            loss.backward()
        state.losses[state.steps_done] += loss.detach()
        if not last:
            self.random_state = self.generator.get_state()
            return
        if self.recipe.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.task.get_clip_parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        state.step += 1
        self.task.update_ema(state.step if self.recipe.ema_start == "first_step" else None)  # timm copies at 1

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """What an epoch's steps say: epoch, lr, train_loss."""
        rate = self.optimizer.param_groups[0]["lr"]
        return {"epoch": epoch, "lr": rate, "train_loss": self.state.losses.mean().item()}

    def keep_model(self, epochs: int) -> None:
        """Keep the model after so many epochs beside the checkpoint, if the recipe asks for it.

        To be called before a checkpoint says that the epochs are done.
        """
        if self.world.is_main and epochs in self.recipe.keep_epochs:
            with atomic_folder(folders.epoch_folder(self.checkpoints.folder, epochs)) as out:
                folders.save(self.model, out, {**self.record, "epochs": epochs})


def _random_seed(*key: int) -> int:
    """A 64-bit random seed that is a function of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
