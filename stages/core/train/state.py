"""The position of a training: how it is saved, restored and checked."""

import time
from typing import Any

import torch
from timm.task import TrainingTask

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.evaluation import DivergedError
from stages.core.train.sampler import EpochSampler

History = list[dict[str, float]]


class TrainingState:
    """The position of a training: how it is saved, restored and checked.

    Attributes:
        history: of every finished epoch: epoch, lr, train_loss, loss, top1, top5, and loss_ema, … with an EMA.
        step: optimizer steps done.
        losses: of the steps of the current epoch, [steps per epoch]; 0 for a step that is not done yet.
        averaged_steps: how many steps of the current epoch have losses that are means over all processes.
        images, seconds: training so far, without evaluation, saving and compilation.
        counted_step: the step up to which they are counted.
        saved_step: the step of the last checkpoint.
    """

    def __init__(
        self,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        sampler: EpochSampler,
        checkpoints: CheckpointFolder,
        world: World,
    ) -> None:
        self.task, self.optimizer, self.sampler, self.checkpoints = task, optimizer, sampler, checkpoints
        self.world = world
        self.history: History = []
        self.losses = torch.zeros(sampler.steps, device=world.device)
        self.step = self.averaged_steps = self.images = self.counted_step = 0
        self.seconds = 0.0
        self.saved_at, self.saved_step = time.monotonic(), 0

    @property
    def steps_done(self) -> int:
        """Finished steps of the current epoch."""
        return self.step - len(self.history) * self.sampler.steps

    @property
    def images_per_s(self) -> float:
        """Training images per second; of models side by side, each has its share of the time."""
        return self.images / self.seconds if self.seconds else 0.0

    def restore(self) -> None:
        """Resume from the last checkpoint, if there is one.

        Raises:
            UserError: an adopted checkpoint does not fit the model or the optimizer.
        """
        if self.world.is_main and (saved := self.checkpoints.load()) is not None:
            try:
                self._set(saved)
            except (RuntimeError, ValueError, TypeError, KeyError) as error:
                if self.checkpoints.source is None:
                    raise
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"ADOPT=1: {self.checkpoints.source} does not fit this code's {self.checkpoints.run} ({reason}); "
                    "unset ADOPT to start over"
                ) from None
            if self.checkpoints.source is not None:
                self.save()
        self.world.wait()  # by now a damaged checkpoint is set aside, and an adopted one saved as this run's own
        if not self.world.is_main and (saved := self.checkpoints.load()) is not None:
            self._set(saved)

    def _set(self, saved: dict[str, Any]) -> None:
        self.task.load_checkpoint_state(saved["state_dict"], saved.get("task_state"))
        if self.task.has_ema():
            self.task.load_checkpoint_state(saved["state_dict_ema"], saved.get("task_state_ema"), ema=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        for weight, moments in self.optimizer.state.items():  # torch matches them by position alone
            if moments["exp_avg"].shape != weight.shape:
                shapes = tuple(moments["exp_avg"].shape), tuple(weight.shape)
                raise ValueError("the optimizer's moments have shape {}, the weights {}".format(*shapes))
        self.history, self.step = saved["history"], saved["step"]
        self.saved_step = self.step
        self.images, self.seconds = saved["trained"]
        self.losses.copy_(saved["losses"])
        self.averaged_steps = self.steps_done

    def save(self) -> None:
        """Write a checkpoint."""
        state: dict[str, Any] = {
            **self.task.get_checkpoint_state(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "trained": [self.images, self.seconds],
            "step": self.step,
            "losses": self.losses.cpu(),
        }
        if self.task.has_ema():
            state |= self.task.get_checkpoint_state(ema=True)
        self.checkpoints.save(state)
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def check(self) -> None:
        """Average the losses over the processes, and check all numbers.

        Raises:
            DivergedError: a loss or a weight is not finite, in every process alike.
        """
        self.losses[self.averaged_steps :] = self.world.mean(self.losses[self.averaged_steps :])
        self.averaged_steps = self.steps_done
        self._check_losses(self.losses)
        self._check_weights()

    def check_losses(self) -> None:
        """Raise DivergedError, in every process alike, if a loss is not finite; this waits for the device."""
        self._check_losses(self.world.mean(self.losses))

    def _check_losses(self, losses: torch.Tensor) -> None:
        finite = losses.isfinite()
        if not finite.all():
            epoch, first = len(self.history), int((~finite).nonzero()[0])
            raise DivergedError(
                f"the loss is not finite at step {epoch * self.sampler.steps + first} (epoch {epoch}, batch {first}); "
                f"lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
            )

    def _check_weights(self) -> None:
        """Gradients may be infinite where a loss is not."""
        groups = self.optimizer.param_groups
        finite = torch.stack([weight.isfinite().all() for group in groups for weight in group["params"]])
        if not finite.all():
            raise DivergedError(
                f"the weights are not finite after step {self.step - 1} (epoch {len(self.history)}); "
                "lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
            )

    def late(self, seconds: float) -> bool:
        """Whether this process saves, and its last checkpoint is at least `seconds` old."""
        return self.world.is_main and time.monotonic() - self.saved_at >= seconds

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Add an epoch's metrics."""
        self.history.append(metrics)
        self.losses.zero_()
        self.averaged_steps = 0
