"""The position of a training: how it is saved, restored and left."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from timm.task import TrainingTask
from torch import Tensor
from torch.utils.data import DataLoader

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.sampler import EpochSampler

SYNC_EVERY = 10  # steps between two exchanges among processes of whether to save or to stop

LOSS_CHECK_EVERY = 100  # steps between two checks that losses are finite; each waits for the device

History = list[dict[str, float]]


class TrainingState:
    """The position of a training: how it is saved, restored and left.

    Attributes:
        history: the metrics of every finished epoch.
        step: optimizer steps done.
        losses: of the steps of the current epoch, [steps per epoch]; 0 for a step that is not done yet.
        averaged_steps: how many steps of the current epoch have losses that are means over all processes.
        images, seconds: training so far, without evaluation, saving and compilation.
        warming_up: whether the next step compiles the models, so that its images and its time are not counted.
    """

    def __init__(
        self,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        sampler: EpochSampler,
        checkpoints: CheckpointFolder,
        world: World,
        terminated: Callable[[], bool],
        checkpoint_s: float,
    ) -> None:
        self.task, self.optimizer, self.sampler, self.checkpoints = task, optimizer, sampler, checkpoints
        self.world, self.terminated, self.checkpoint_s = world, terminated, checkpoint_s
        self.history: History = []
        self.losses = torch.zeros(sampler.steps, device=world.device)
        self.step = self.averaged_steps = self.images = 0
        self.seconds = 0.0
        self.epoch_checkpoint_s = 0.0
        self.warming_up = False
        self.saved_at, self.saved_step = time.monotonic(), 0
        self.start_clock()

    @property
    def steps_done(self) -> int:
        """Finished steps of the current epoch."""
        return self.step - len(self.history) * self.sampler.steps

    def start_clock(self) -> None:
        """Measure the time and the images of training from now on."""
        self.started, self.first_step = time.perf_counter(), self.step

    def restore(self) -> None:
        """Resume from the last checkpoint, if there is one.

        Raises:
            UserError: an adopted checkpoint does not fit the model or the optimizer.
        """
        if self.world.primary and (saved := self.checkpoints.load()) is not None:
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
        if not self.world.primary and (saved := self.checkpoints.load()) is not None:
            self._set(saved)

    def _set(self, saved: dict[str, Any]) -> None:
        self.task.load_checkpoint_state(saved["state_dict"], saved.get("task_state"))
        if self.task.has_ema():
            self.task.load_checkpoint_state(saved["state_dict_ema"], saved.get("task_state_ema"), ema=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        for weight, moments in self.optimizer.state.items():  # torch matches them by position alone
            if moments["exp_avg"].shape != weight.shape:
                found, expected = tuple(moments["exp_avg"].shape), tuple(weight.shape)
                raise ValueError(f"the optimizer's moments have shape {found}, the weights {expected}")
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
        self.start_clock()

    def stop(self) -> NoReturn:
        """Stop; a checkpoint has been saved."""
        self.world.wait()  # when one worker ends, the others are killed
        raise UserError(f"stopped by SIGTERM; the same command resumes at step {self.step}")

    def update_totals(self) -> None:
        """Count images and seconds since `start_clock`, average the losses over the processes, and check all numbers.

        Raises:
            UserError: a loss or a weight is not finite.
        """
        _wait_for(self.world.device)
        self.seconds += time.perf_counter() - self.started
        self.images += (self.step - self.first_step) * self.sampler.batch
        self.losses[self.averaged_steps :] = self.world.mean(self.losses[self.averaged_steps :])
        self.averaged_steps = self.steps_done
        self.check_losses()
        self.check_weights()

    def check_losses(self) -> None:
        """Raise UserError if a loss is not finite; this waits for the device."""
        finite = self.losses.isfinite()
        if not finite.all():
            epoch, first = len(self.history), int((~finite).nonzero()[0])
            raise UserError(
                f"the loss is not finite at step {epoch * self.sampler.steps + first} (epoch {epoch}, batch {first}); "
                f"lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
            )

    def check_weights(self) -> None:
        """Raise UserError if a weight is not finite (gradients may be infinite where a loss is not)."""
        groups = self.optimizer.param_groups
        finite = torch.stack([weight.isfinite().all() for group in groups for weight in group["params"]])
        if not finite.all():
            raise UserError(
                f"the weights are not finite after step {self.step - 1} (epoch {len(self.history)}); "
                "lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
            )

    def late(self, seconds: float) -> bool:
        """Whether this process saves, and its last checkpoint is at least `seconds` old."""
        return self.world.primary and time.monotonic() - self.saved_at >= seconds

    def after_step(self) -> None:
        """After a step: check the losses from time to time, save if the last checkpoint is old, stop if asked to."""
        if self.warming_up:
            self.warming_up = False
            _wait_for(self.world.device)
            self.start_clock()
        if self.step % LOSS_CHECK_EVERY == 0:
            self.check_losses()
        if self.world.size == 1 or self.step % SYNC_EVERY == 0:
            stopping, due = self.world.any([self.terminated(), self.late(self.checkpoint_s)])
            if stopping or due:
                self.update_totals()
                self.save()
            if stopping:
                self.stop()

    def finish_steps(self, *, last: bool) -> None:
        """After an epoch's steps: count them, and save before a failure, if the epoch is the last or it is time to."""
        self.update_totals()
        (due,) = self.world.any([last or self.late(self.epoch_checkpoint_s)])
        if due:
            self.save()

    def interruptible(
        self, batches: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]], shared: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches to evaluate on; after each of the first `shared`, save and stop if asked to."""
        for position, batch in enumerate(batches, 1):
            yield batch
            if position <= shared and any(self.world.any([self.terminated()])):
                if self.step != self.saved_step:
                    self.save()
                self.stop()

    def finish_epoch(self, metrics: dict[str, float], *, last: bool) -> None:
        """Add an epoch's metrics; save if it is the last one; save and stop if asked to."""
        self.history.append(metrics)
        self.losses.zero_()
        self.averaged_steps = 0
        stopping = any(self.world.any([self.terminated()]))
        if last or stopping:
            self.save()
        if stopping:
            self.stop()


def _wait_for(device: torch.device) -> None:
    """Return when the device has done all work that it was given, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
