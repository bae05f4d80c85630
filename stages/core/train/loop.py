"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches, default_generator
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.drop_path import DropPathMasks
from stages.core.train.evaluation import check_finite, evaluate_together
from stages.core.train.progress import Progress
from stages.core.train.resident import ResidentBatches
from stages.core.train.state import History, TrainingState
from stages.core.train.task import bare_model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        history: one entry per epoch: epoch, lr, train_loss, loss, top1, top5, and loss_ema, … with an EMA.
        images_per_s: training images per second, without the time of evaluation and of saving.
        ema_model: the model with averaged weights, or None without an EMA.
    """

    history: History
    images_per_s: float
    ema_model: nn.Module | None


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
    epoch_checkpoint_s: float = 0.0,
    terminated: Callable[[], bool] = lambda: False,
    compiled: bool = False,
    log: Callable[[dict[str, float]], None] = lambda _: None,
    keep: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Train a task's model with AdamW and a cosine schedule, evaluating after every epoch.

    A checkpoint is saved after the last step of an epoch, before it is evaluated, and within an epoch, when the last
    checkpoint is old enough; before and after the last evaluation; and when the process is asked to terminate. So a
    failure after the last step costs no training, and no checkpoint holds a weight that is not finite. Training resumes
    from the last checkpoint in `checkpoints`, at the very step; the result equals that of an uninterrupted run, because
    every random choice is a function of seed and position, so that no random state has to be saved. An evaluation that
    was interrupted is repeated. A step waits for the device only when losses are checked. A global batch is split
    evenly over processes and, on each, over pieces that fit its device; gradients are averaged over all of them.

    Args:
        task: the model and its loss, on the device of this process.
        training: augmented batches of each epoch, on the same device.
        validation: this process's batches to evaluate on.
        epochs: passes over the training images.
        lr: peak learning rate, reached after `warmup_epochs` from `warmup_lr`, on a cosine that falls to `min_lr`.
        weight_decay: of weight matrices; biases, norms and embeddings are not decayed.
        clip_grad: the largest gradient norm, or None for no limit.
        precision: "float32", or "bfloat16" under autocast.
        ema_decay: decay of the averaged weights, which are evaluated beside the raw ones; None for no average.
        seed: of drop path.
        world: the processes that train together.
        checkpoints: where to save and to resume from.
        schedule: "step" sets the learning rate before every step; "epoch" sets it after each epoch for the next, as
            timm's scripts do, so that epoch n trains at the schedule's value for n − 1.
        ema_start: "first_step" starts the averaged weights from those after the first step, "initial" from those
            before it.
        decay_embeddings: whether position embedding and class token are decayed too.
        checkpoint_s: least age of the last checkpoint, in seconds, for another one within an epoch.
        epoch_checkpoint_s: likewise after an epoch.
        terminated: returns whether this process was asked to terminate, which makes all of them save and stop.
        compiled: whether to compile student and teacher.
        log: called with the metrics of each epoch, including those from before an interruption.
        keep: called after each epoch with the number of epochs done, before any checkpoint says that it is done.

    Raises:
        UserError: a loss or weight is not finite (the last checkpoint is kept), the checkpoint that is adopted does not
            fit, the device's memory is too small, or the process was asked to terminate.
    """
    student, ema_model = bare_model(task), None
    masks = DropPathMasks(student, training.sampler, seed)
    if ema_decay is not None:
        task.setup_ema(decay=ema_decay)
        ema_model = bare_model(task, ema=True)
    pieces = training.sampler.pieces
    optimizer = create_optimizer_v2(
        _parameter_groups(task, weight_decay, decay_embeddings=decay_embeddings),
        opt="adamw",
        lr=lr,
        weight_decay=weight_decay,
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
    run = TrainingState(task, optimizer, training.sampler, checkpoints, world, terminated, checkpoint_s)
    run.epoch_checkpoint_s, run.warming_up = epoch_checkpoint_s, compiled
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
    progress = Progress(checkpoints.run, done=len(run.history), epochs=epochs, world=world)
    for epoch in progress:
        task.train()
        scheduler.step(max(0, epoch - 1))  # does nothing where the rate changes with every step
        run.start_clock()
        steps_done = run.steps_done
        for position, (images, labels) in enumerate(training.epoch(epoch, steps_done), steps_done * pieces):
            batch, piece = divmod(position, pieces)
            last = piece == pieces - 1
            if piece == 0:
                generator.manual_seed(_random_seed(seed, run.step, world.rank))  # of layers that draw, drop path apart
                scheduler.step_update(run.step)  # does nothing where the rate changes with every epoch
                optimizer.zero_grad()
            masks.set(run.step, piece)
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
                run.after_step()
        run.finish_steps(last=epoch == epochs - 1)

        metrics = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": run.losses.mean().item()}
        models = {"": student} if ema_model is None else {"": student, "_ema": ema_model}
        measured = evaluate_together([*models.values()], run.interruptible(validation, shared), world)
        for suffix, measures in zip(models, measured, strict=True):
            metrics |= {f"{name}{suffix}": value for name, value in measures.items()}
        check_finite(metrics, f"after epoch {epoch}")
        log(metrics)
        progress.finished(metrics)
        keep(epoch + 1)
        run.finish_epoch(metrics, last=epoch == epochs - 1)
    return Fitted(run.history, run.images / run.seconds if run.seconds else 0.0, ema_model)


def _parameter_groups(task: TrainingTask, weight_decay: float, *, decay_embeddings: bool) -> list[dict[str, Any]]:
    """A student's parameters without and with weight decay, then likewise those of what is trained beside it.

    Biases and norms are not decayed, and the position embedding and the class token only with `decay_embeddings`.
    """
    student = bare_model(task)
    spared: Collection[str] = () if decay_embeddings else getattr(student, "no_weight_decay", set)()
    groups = list(param_groups_weight_decay(student, weight_decay, no_weight_decay_list=spared))
    projectors = getattr(unwrap_model(task.get_trainable_module()), "projectors", None)
    if projectors is not None:
        groups += [group for group in param_groups_weight_decay(projectors, weight_decay) if group["params"]]
    return groups


def _random_seed(*key: int) -> int:
    """A 64-bit random seed that is a function of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
