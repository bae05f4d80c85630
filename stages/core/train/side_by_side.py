"""Models that train side by side on the same batches: when they save, when they stop, and how one ends alone.

A single training is a group of one.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from signal import Signals
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stages.core.base.errors import StoppedError, UserError
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import DivergedError
from stages.core.train.training import Training

SYNC_EVERY = 10  # steps between two exchanges among processes of whether to save or to stop

LOSS_CHECK_EVERY = 100  # steps between two checks that losses are finite; each waits for the device


class Group:
    """Models that train side by side, each from its own position: one that is further on waits for the others.

    One that diverges ends alone. Everything else that goes wrong, a full disk among it, ends all of them; each keeps
    its last checkpoint.

    Args:
        trainings: the models.
        world: the processes that train together, in which all models take the same turns.
        terminated: returns the signal that asked this process to stop, which makes all of them save and stop, or None.
        checkpoint_s: least age of a model's last checkpoint, in seconds, for another one within an epoch.
        epoch_checkpoint_s: likewise after an epoch.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        world: World,
        *,
        terminated: Callable[[], Signals | None],
        checkpoint_s: float,
        epoch_checkpoint_s: float,
    ) -> None:
        self.trainings, self.world, self.terminated = list(trainings), world, terminated
        self.checkpoint_s, self.epoch_checkpoint_s = checkpoint_s, epoch_checkpoint_s
        self.received = 0  # the signal that asked this process to stop
        self.start_clock()

    @property
    def left(self) -> list[Training]:
        """Those that have not ended early."""
        return [training for training in self.trainings if training.failure is None]

    def at(self, epoch: int) -> list[Training]:
        """Those that train or evaluate in an epoch: the others have ended early, or finished it before."""
        return [training for training in self.left if len(training.state.history) == epoch]

    def start_clock(self) -> None:
        """Measure the time and the images of training from now on."""
        self.started = time.perf_counter()
        for training in self.trainings:
            training.state.counted_step = training.state.step

    def count(self) -> None:
        """Count images and seconds since `start_clock`. Of the time each model has the share that its steps are."""
        _wait_for(self.world.device)
        seconds = time.perf_counter() - self.started
        taken = [training.state.step - training.state.counted_step for training in self.trainings]
        for training, steps in zip(self.trainings, taken, strict=True):
            if steps:
                training.state.seconds += seconds * steps / sum(taken)
                training.state.images += steps * training.sampler.batch
        self.start_clock()

    @contextmanager
    def ending_alone(self, training: Training) -> Iterator[None]:
        """End a model that diverges within the block, and go on with the others.

        Raises:
            UserError: none is left.
        """
        try:
            yield
        except DivergedError as failure:
            training.failure = failure
            if not self.left:
                raise all_failures(self.trainings) from None
            if self.world.is_main:
                print(f"error: {training.run}: {failure}; the others go on", file=sys.stderr, flush=True)

    def after_step(self, taken: Sequence[Training], step: int) -> None:
        """After a step: check the losses from time to time, save where the last checkpoint is old, stop if asked to.

        Args:
            taken: those that took it.
            step: how many steps they have taken.
        """
        if any(training.warming_up for training in taken):
            for training in taken:
                training.warming_up = False
            _wait_for(self.world.device)
            self.start_clock()
        if step % LOSS_CHECK_EVERY == 0:
            for training in taken:
                with self.ending_alone(training):
                    training.state.check_losses()
        if self.world.size == 1 or step % SYNC_EVERY == 0:
            sound = [training for training in taken if training.failure is None]
            late = [training.state.late(self.checkpoint_s) for training in sound]
            stopping, *due = self.world.any([self._asked(), *late])
            saved = [training for training, is_due in zip(sound, due, strict=True) if is_due or stopping]
            if saved:
                self.count()
                self._check_and_save(saved)
                self.start_clock()
            if stopping:
                self.stop()

    def _check_and_save(self, chosen: Sequence[Training]) -> None:
        for training in chosen:
            with self.ending_alone(training):
                training.state.check()
                training.state.save()

    def finish_steps(self, epoch: int, *, last: bool) -> None:
        """After an epoch's steps: count them, and save before a failure, if the epoch is the last or it is time to."""
        self.count()
        for training in self.at(epoch):
            with self.ending_alone(training):
                training.state.check()
        present = self.at(epoch)
        due = self.world.any([last or training.state.late(self.epoch_checkpoint_s) for training in present])
        for training, is_due in zip(present, due, strict=True):
            if is_due:
                training.state.save()

    def interruptible(
        self, batches: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]], epoch: int, shared: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches to evaluate on; after each of the first `shared`, save and stop if asked to."""
        for position, batch in enumerate(batches, 1):
            yield batch
            if position <= shared and any(self.world.any([self._asked()])):
                for training in self.at(epoch):
                    if training.state.step != training.state.saved_step:
                        training.state.save()
                self.stop()

    def finish_epoch(self, finished: Sequence[tuple[Training, dict[str, float]]], *, last: bool) -> None:
        """Add the metrics of those that finished an epoch; save if it is the last one; save and stop if asked to."""
        for training, metrics in finished:
            training.state.finish_epoch(metrics)
        stopping = any(self.world.any([self._asked()]))
        for training, _ in finished:
            if last or stopping:
                training.state.save()
        if stopping:
            self.stop()

    def stop(self) -> NoReturn:
        """Stop; checkpoints have been saved.

        Raises:
            StoppedError: always; it names the signal, whichever process got it, and the step.
        """
        number = int(self.world.gather(torch.tensor([self.received])).max())
        self.world.wait()  # when one worker ends, the others are killed
        step = min(training.state.step for training in self.left)
        raise StoppedError(f"stopped by {Signals(number).name}; the same command resumes at step {step}")

    def _asked(self) -> bool:
        """Whether this process was asked to stop; the signal is kept for the message."""
        self.received = self.terminated() or 0
        return self.received != 0


def all_failures(trainings: Sequence[Training]) -> UserError:
    """One error for all models that ended early; of a model that was trained alone its own."""
    failed = [(training.run, training.failure) for training in trainings if training.failure is not None]
    if len(trainings) == 1:
        return failed[0][1]
    reasons = "; ".join(f"{run}: {failure}" for run, failure in failed)
    rest = "; the others are finished" if len(failed) < len(trainings) else ""
    return UserError(f"{len(failed)} of {len(trainings)} runs ended early{rest}: {reasons}")


def _wait_for(device: torch.device) -> None:
    """Return when the device has done all work that it was given, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
