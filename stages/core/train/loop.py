"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches, default_generator
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.evaluation import evaluate
from stages.core.train.resident import ResidentBatches
from stages.core.train.sampler import EpochSampler

WORDS_EVERY = 10  # steps between two words of several processes with each other, whether to save or to stop
LOSS_CHECKS = 100  # steps between two looks at the loss, each of which waits for the device
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
History = list[dict[str, float]]


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        history: one entry per epoch: epoch, lr, train_loss, loss, top1, top5, and loss_ema, … with an EMA.
        images_per_s: images trained per second of training, evaluation and saving apart.
        averaged: the model with averaged weights, or None without an EMA.
    """

    history: History
    images_per_s: float
    averaged: nn.Module | None


def fit(
    task: TrainingTask,
    training: TrainingBatches | ResidentBatches,
    validation: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]],
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    warmup_epochs: int,
    warmup_lr: float,
    min_lr: float,
    clip_grad: float | None,
    precision: str,
    ema_decay: float | None,
    seed: int,
    world: World,
    checkpoints: CheckpointFolder,
    schedule: str = "step",
    ema_start: str = "first_step",
    decay_embeddings: bool = False,
    checkpoint_s: float = 600.0,
    terminated: Callable[[], bool] = lambda: False,
    compiled: bool = False,
    log: Callable[[dict[str, float]], None] = lambda _: None,
) -> Fitted:
    """Train a task's model with AdamW and a cosine schedule, evaluating after every epoch.

    A checkpoint is saved after every epoch, within one when the last is old enough, and when the process is to
    end, in an epoch's evaluation too, which is then repeated. One in `checkpoints` is continued from, at the
    very step; the result equals that of an uninterrupted run, since every random choice is a function of seed,
    position and process: no random state is needed. A step waits for the device only when the loss is looked
    at. A global batch is split evenly over processes and, on each, over pieces that fit its device; gradients
    are averaged over all of them.

    Args:
        task: model and loss, on the device of this process.
        training: augmented batches of each epoch, on the same device.
        validation: this process's batches to evaluate on.
        epochs: passes over the training images.
        lr: peak learning rate, reached after `warmup_epochs` from `warmup_lr`, on a cosine that falls to `min_lr`.
        weight_decay: of matrices; biases, norms and embeddings have none.
        clip_grad: largest gradient norm, or None.
        precision: "float32", or "bfloat16" under autocast.
        ema_decay: of the averaged weights, evaluated beside the raw ones; None keeps none.
        seed: of the model's own random choices (drop path), which differ between processes.
        world: the processes that train together.
        checkpoints: where to save and to continue from.
        schedule: "step" sets the learning rate before every step; "epoch" sets it after each epoch for the next, as
            timm's scripts do, so that epoch n trains at the schedule's value for n − 1.
        ema_start: "first_step" starts the averaged weights from those after the first step, "initial" from those
            before it.
        decay_embeddings: whether position embedding and class token are decayed too.
        checkpoint_s: seconds between two checkpoints within an epoch.
        terminated: says whether this process was told to end, which makes all of them save and stop.
        compiled: whether to compile student and teacher.
        log: called with the metrics of each epoch, those before an interruption included.

    Raises:
        UserError: the loss is not finite, and the last checkpoint is kept; or the device's memory is too small; or
            the process was told to end.
    """
    student, averaged = task.get_eval_model(), None
    if ema_decay is not None:
        task.setup_ema(decay=ema_decay)
        averaged = task.get_eval_model(ema=True)
    pieces = training.sampler.pieces
    optimizer = create_optimizer_v2(
        student,
        opt="adamw",
        lr=lr,
        weight_decay=weight_decay,
        param_group_fn=partial(param_groups_weight_decay, weight_decay=weight_decay) if decay_embeddings else None,
        fused=True,
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        min_lr=min_lr,
        step_on_epochs=schedule == "epoch",
        updates_per_epoch=training.sampler.steps,
    )
    run = _Run(task, optimizer, training.sampler, checkpoints, world, terminated, checkpoint_s)
    run.restore()
    for metrics in run.history:
        log(metrics)
    if compiled:
        task.compile()
    if world.size > 1:
        task.prepare_distributed(device_ids=[world.device] if world.device.type == "cuda" else None)

    generator = default_generator(world.device)
    autocast = torch.autocast(world.device.type, PRECISIONS[precision], enabled=precision != "float32")
    shared = int(world.gather(torch.tensor([len(validation)])).min())  # evaluation batches that every process has
    progress = tqdm(
        range(len(run.history), epochs),
        initial=len(run.history),
        total=epochs,
        unit="epoch",
        disable=None if world.primary else True,
    )
    for epoch in progress:
        task.train()
        scheduler.step(max(0, epoch - 1))  # does nothing where the rate changes with every step
        run.start_clock()
        done = run.done
        for position, (images, labels) in enumerate(training.epoch(epoch, done), done * pieces):
            batch, piece = divmod(position, pieces)
            last = piece == pieces - 1
            if piece == 0:
                generator.manual_seed(_draw(seed, run.step, world.rank))  # of drop path
                scheduler.step_update(run.step)  # does nothing where the rate changes with every epoch
                optimizer.zero_grad()
            try:
                with nullcontext() if last else task.no_sync():
                    with autocast:
                        loss = task(images, labels)["loss"] / pieces
                    loss.backward()
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{world.device} has too little memory for {len(images)} images at a time; set DEVICE_BATCH to "
                    f"less, {max(1, len(images) // 2)} say: the global batch and the result stay the same"
                ) from None
            run.losses[batch] += loss.detach()
            if last:
                if clip_grad is not None:
                    torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), clip_grad)
                optimizer.step()
                run.step += 1
                task.update_ema(run.step if ema_start == "first_step" else None)  # timm copies at step 1
                run.look_up()
        run.account()

        metrics = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": run.losses.mean().item()}
        metrics |= evaluate(student, run.stoppable(validation, shared), world)
        if averaged is not None:
            of_average = evaluate(averaged, run.stoppable(validation, shared), world)
            metrics |= {f"{name}_ema": value for name, value in of_average.items()}
        log(metrics)
        progress.set_postfix(loss=f"{metrics['train_loss']:.3f}", top1=f"{metrics['top1']:.1f} %")
        run.finish_epoch(metrics)
    return Fitted(run.history, run.images / run.seconds if run.seconds else 0.0, averaged)


class _Run:
    """Where a training stands, and how that is saved, restored and left.

    Attributes:
        history: the metrics of every finished epoch.
        step: optimizer steps done.
        losses: of the unfinished epoch's steps, [steps of an epoch]; 0 where a step is still to be done.
        accounted: how many of them are means over all processes, and are counted in the next two.
        images: trained so far.
        seconds: of training so far, evaluation and saving apart.
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
        self.step = self.accounted = self.images = 0
        self.seconds = 0.0
        self.saved_at = time.monotonic()
        self.start_clock()

    @property
    def done(self) -> int:
        """Steps of the unfinished epoch that are done."""
        return self.step - len(self.history) * self.sampler.steps

    def start_clock(self) -> None:
        """Count the seconds of training from now on."""
        self.started = time.perf_counter()

    def restore(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        saved = self.checkpoints.load() if self.world.primary else None
        self.world.wait()  # a damaged checkpoint is out of the way before the others look
        if not self.world.primary:
            saved = self.checkpoints.load()
        if saved is None:
            return
        self.task.load_checkpoint_state(saved["state_dict"])
        if self.task.has_ema():
            self.task.load_checkpoint_state(saved["state_dict_ema"], ema=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history, self.step = saved["history"], saved["step"]
        self.images, self.seconds = saved["trained"]
        self.losses.copy_(saved["losses"])
        self.accounted = self.done

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
        self.saved_at = time.monotonic()
        self.start_clock()

    def stop(self) -> NoReturn:
        """End, now that a checkpoint is saved."""
        self.world.wait()  # a worker that ends has the others killed
        raise UserError(f"stopped by SIGTERM; the same command goes on from step {self.step}")

    def account(self) -> None:
        """Average the losses of the latest steps over the processes, look at them, and count images and seconds."""
        self.seconds += time.perf_counter() - self.started
        self.images += (self.done - self.accounted) * self.sampler.batch
        self.losses[self.accounted :] = self.world.mean(self.losses[self.accounted :])
        self.accounted = self.done
        self.check_losses()

    def check_losses(self) -> None:
        """Refuse a loss that is not finite; it waits for the device."""
        finite = self.losses.isfinite()
        if not finite.all():
            epoch, first = len(self.history), int((~finite).nonzero()[0])
            raise UserError(
                f"the loss is not finite at step {epoch * self.sampler.steps + first} (epoch {epoch}, batch {first}); "
                f"lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
            )

    def look_up(self) -> None:
        """After a step: look at the losses now and then, save if the last checkpoint is old, stop if told to."""
        if self.step % LOSS_CHECKS == 0:
            self.check_losses()
        if self.world.size == 1 or self.step % WORDS_EVERY == 0:
            late = self.world.primary and time.monotonic() - self.saved_at >= self.checkpoint_s
            stopping, due = self.world.any([self.terminated(), late])
            if stopping or due:
                self.account()
                self.save()
            if stopping:
                self.stop()

    def stoppable(
        self, batches: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]], shared: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches to evaluate on; the first `shared` of them end the training if it is told to stop."""
        for position, batch in enumerate(batches, 1):
            yield batch
            if position <= shared and any(self.world.any([self.terminated()])):
                self.save()
                self.stop()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Add an epoch's metrics, save, and stop if told to."""
        self.history.append(metrics)
        self.losses.zero_()
        self.accounted = 0
        self.save()
        if any(self.world.any([self.terminated()])):
            self.stop()


def _draw(*key: int) -> int:
    """A random seed that is a function of the key, of 64 bits."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
