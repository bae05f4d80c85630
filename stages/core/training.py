"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from stages.core.distributed import World
from stages.core.errors import UserError
from stages.core.evaluation import evaluate
from stages.core.loaders import TrainingBatches, default_generator
from stages.core.resident import ResidentBatches
from stages.core.resume import CheckpointFolder

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
    steps, pieces = training.sampler.steps, training.sampler.pieces
    optimizer = create_optimizer_v2(student, opt="adamw", lr=lr, weight_decay=weight_decay, fused=True)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        min_lr=min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )

    generator = default_generator(world.device)
    history: History = []
    trained_images, trained_s = 0, 0.0
    step, of_epoch = 0, torch.zeros(0)  # the losses of an unfinished epoch
    saved = checkpoints.load() if world.primary else None
    world.wait()  # a damaged checkpoint is out of the way before the others look
    if not world.primary:
        saved = checkpoints.load()
    if saved is not None:
        task.load_checkpoint_state(saved["state_dict"])
        if ema_decay is not None:
            task.load_checkpoint_state(saved["state_dict_ema"], ema=True)
        optimizer.load_state_dict(saved["optimizer"])
        history = saved["history"]
        trained_images, trained_s = saved["trained"]
        step, of_epoch = saved["step"], saved["losses"]
    for metrics in history:
        log(metrics)
    if compiled:
        task.compile()
    if world.size > 1:
        task.prepare_distributed(device_ids=[world.device] if world.device.type == "cuda" else None)

    autocast = torch.autocast(world.device.type, PRECISIONS[precision], enabled=precision != "float32")
    shared = int(world.gather(torch.tensor([len(validation)])).min())  # evaluation batches that every process has

    def save(losses: Tensor) -> None:
        state: dict[str, Any] = {
            **task.get_checkpoint_state(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "trained": [trained_images, trained_s],
            "step": step,
            "losses": losses.cpu(),
        }
        if averaged is not None:
            state |= task.get_checkpoint_state(ema=True)
        checkpoints.save(state)

    def end() -> None:
        raise UserError(f"stopped by SIGTERM; the same command goes on from step {step}")

    def stoppable() -> Iterator[tuple[Tensor, Tensor]]:
        for position, batch in enumerate(validation, 1):
            yield batch
            if position <= shared and any(world.any([terminated()])):
                save(losses)
                world.wait()
                end()

    saved_at = time.monotonic()
    progress = tqdm(
        range(len(history), epochs),
        initial=len(history),
        total=epochs,
        unit="epoch",
        disable=None if world.primary else True,
    )
    for epoch in progress:
        task.train()
        start = step - epoch * steps
        losses = torch.zeros(steps, device=world.device)
        losses[:start] = of_epoch[:start]
        started = time.perf_counter()
        for position, (images, labels) in enumerate(training.epoch(epoch, start), start * pieces):
            batch, piece = divmod(position, pieces)
            last = piece == pieces - 1
            if piece == 0:
                generator.manual_seed(_draw(seed, step, world.rank))  # of drop path
                scheduler.step_update(step)
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
            losses[batch] += loss.detach()
            if not last:
                continue
            if clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), clip_grad)
            optimizer.step()
            step += 1
            task.update_ema(step)
            if step % LOSS_CHECKS == 0:
                _check_finite(losses, epoch, steps)
            if world.size == 1 or step % WORDS_EVERY == 0:
                late = world.primary and time.monotonic() - saved_at >= checkpoint_s
                stopping, due = world.any([terminated(), late])
                if stopping or due:
                    losses[start:] = world.mean(losses[start:])
                    _check_finite(losses, epoch, steps)
                    trained_s += time.perf_counter() - started
                    trained_images += (batch + 1 - start) * training.sampler.batch
                    save(losses)
                    if stopping:
                        world.wait()  # a worker that ends has the others killed
                        end()
                    start, started, saved_at = batch + 1, time.perf_counter(), time.monotonic()
        losses[start:] = world.mean(losses[start:])
        _check_finite(losses, epoch, steps)
        trained_s += time.perf_counter() - started
        trained_images += (steps - start) * training.sampler.batch

        metrics = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": losses.mean().item()}
        metrics |= evaluate(student, stoppable(), world)
        if averaged is not None:
            of_average = evaluate(averaged, stoppable(), world)
            metrics |= {f"{name}_ema": value for name, value in of_average.items()}
        history.append(metrics)
        log(metrics)
        progress.set_postfix(loss=f"{metrics['train_loss']:.3f}", top1=f"{metrics['top1']:.1f} %")
        save(losses[:0])
        saved_at = time.monotonic()
        if any(world.any([terminated()])):
            end()
    return Fitted(history, trained_images / trained_s if trained_s else 0.0, averaged)


def _draw(*key: int) -> int:
    """A random seed that is a function of the key, of 64 bits."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _check_finite(losses: Tensor, epoch: int, batches: int) -> None:
    """Stop at the first loss of the epoch that is not finite; those not yet computed are 0."""
    finite = losses.isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise UserError(
            f"the loss is not finite at step {epoch * batches + first} (epoch {epoch}, batch {first}); "
            f"lower recipe.lr or set recipe.clip_grad; the last checkpoint is kept"
        )
