"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World
from stages.core.train import compilation
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.device_augmentation import ResidentBatches
from stages.core.train.evaluation import DivergedError, check_finite, evaluate_together
from stages.core.train.optimization import Optimization
from stages.core.train.progress import Progress
from stages.core.train.side_by_side import Group
from stages.core.train.state import History
from stages.core.train.teacher import teacher_outputs
from stages.core.train.trainee import Trainee, Training


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        history: one entry per epoch: epoch, lr, train_loss, loss, top1, top5, and loss_ema, … with an EMA.
        images_per_s: training images per second, without the time of evaluation and of saving; of models side by side,
            each has its share of the time.
        ema_model: the model with averaged weights, or None without an EMA.
        failure: why the training ended early; None if it did not.
    """

    history: History
    images_per_s: float
    ema_model: nn.Module | None
    failure: DivergedError | None = None


def fit(
    task: TrainingTask,
    training: TrainingBatches | ResidentBatches,
    validation: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]],
    *,
    seed: int,
    world: World,
    checkpoints: CheckpointFolder,
    decay_embeddings: bool = False,
    checkpoint_s: float = 600.0,
    epoch_checkpoint_s: float = 0.0,
    terminated: Callable[[], Signals | None] = lambda: None,
    compiled: bool = False,
    log: Callable[[dict[str, float]], None] = lambda _: None,
    **optimization: Any,
) -> Fitted:
    """Train one task's model: see `fit_together`, `Trainee` and, for the other arguments, `Optimization`."""
    (fitted,) = fit_together(
        [Trainee(task, checkpoints, decay_embeddings, log)],
        training,
        validation,
        Optimization(**optimization),
        seed=seed,
        world=world,
        checkpoint_s=checkpoint_s,
        epoch_checkpoint_s=epoch_checkpoint_s,
        terminated=terminated,
        compiled=compiled,
    )
    return fitted


def fit_together(
    trainees: Sequence[Trainee],
    training: TrainingBatches | ResidentBatches,
    validation: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]],
    optimization: Optimization,
    *,
    seed: int,
    world: World,
    checkpoint_s: float = 600.0,
    epoch_checkpoint_s: float = 0.0,
    terminated: Callable[[], Signals | None] = lambda: None,
    compiled: bool = False,
) -> list[Fitted]:
    """Train models side by side with AdamW and a cosine schedule, evaluating after every epoch.

    Each batch is loaded once, and shown once to a teacher that several tasks share; then the models take their steps in
    turn, so that the activations of one are in memory at a time. The result of each equals that of training it alone.

    A model's checkpoint is saved after the last step of an epoch, before it is evaluated, and within an epoch, when the
    last one is old enough; before and after the last evaluation; and when the process is asked to terminate. So a
    failure after the last step costs no training, and no checkpoint holds a weight that is not finite. Training resumes
    from each model's last checkpoint, at the very step; the result equals that of an uninterrupted run, because every
    random choice is a function of seed and position, so that no random state has to be saved. A model that is further
    on than others waits for them. An evaluation that was interrupted is repeated. A step waits for the device only when
    losses are checked. A global batch is split evenly over processes and, on each, over pieces that fit its device;
    gradients are averaged over all of them.

    Args:
        trainees: the models, which take images normalised alike.
        training: augmented batches of each epoch, on the device of this process.
        validation: this process's batches to evaluate on.
        optimization: what the optimizer does.
        seed: of drop path.
        world: the processes that train together.
        checkpoint_s: least age of the last checkpoint, in seconds, for another one within an epoch.
        epoch_checkpoint_s: likewise after an epoch.
        terminated: returns the signal that asked this process to stop, which makes all of them save and stop, or None.
        compiled: whether to compile students and teacher.

    Returns:
        For each trainee its result. A model whose loss, weights or metrics are not finite ends alone, with its last
        checkpoint, and the result says why; if it is the only one, or the last one left, that is a UserError.

    Raises:
        UserError: every model ended early, the checkpoint that is adopted does not fit, the device's memory is too
            small, or the disk is full.
        StoppedError: a process was asked to stop.
    """
    sampler, epochs = training.sampler, optimization.epochs
    if compiled:
        compilation.expect(len(trainees))
    trainings = [Training(one, sampler, optimization, seed=seed, world=world, compiled=compiled) for one in trainees]
    group = Group(
        trainings,
        world,
        terminated=terminated,
        checkpoint_s=checkpoint_s,
        epoch_checkpoint_s=epoch_checkpoint_s,
    )
    shared = int(world.gather(torch.tensor([len(validation)])).min())  # evaluation batches that every process has
    done = min(len(one.state.history) for one in trainings)
    progress = Progress([one.name for one in trainings], done=done, epochs=epochs, world=world)
    for epoch in progress:
        if not group.at(epoch):
            continue  # those that were here ended early, and the others are further on
        for one in group.at(epoch):
            one.start_epoch(epoch)
        group.start_clock()
        start = min(one.state.steps_done for one in group.at(epoch))
        for position, (images, labels) in enumerate(training.epoch(epoch, start), start * sampler.pieces):
            if not group.at(epoch):
                break
            batch, piece = divmod(position, sampler.pieces)
            taking = [one for one in group.at(epoch) if one.state.steps_done == batch]
            try:
                lessons = teacher_outputs([one.task for one in taking], images)
                for one, taught in zip(taking, lessons, strict=True):
                    one.take(images, labels, taught, piece)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{world.device} has too little memory for {len(images)} images at a time; set DEVICE_BATCH to "
                    f"less, {max(1, len(images) // 2)} say: the global batch and the result stay the same"
                ) from None
            if piece == sampler.pieces - 1:
                group.after_step(taking, epoch * sampler.steps + batch + 1)
        if not group.at(epoch):
            continue
        group.finish_steps(epoch, last=epoch == epochs - 1)

        present = group.at(epoch)
        models = [model for one in present for model in one.models.values()]
        measured = iter(evaluate_together(models, group.interruptible(validation, epoch, shared), world))
        finished = []
        for one in present:
            metrics = one.epoch_metrics(epoch)
            for suffix in one.models:
                metrics |= {f"{name}{suffix}": value for name, value in next(measured).items()}
            with group.ending_alone(one):
                check_finite(metrics, f"after epoch {epoch}")
                one.log(metrics)
                progress.finished(one.name, metrics)
                one.keep(epoch + 1)
                finished.append((one, metrics))
        group.finish_epoch(finished, last=epoch == epochs - 1)
    return [_fitted(one) for one in trainings]


def _fitted(one: Training) -> Fitted:
    state = one.state
    rate = state.images / state.seconds if state.seconds else 0.0
    return Fitted(state.history, rate, one.models.get("_ema"), one.failure)
