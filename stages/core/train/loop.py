"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

from collections.abc import Callable, Iterable, Sequence
from signal import Signals
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stages.core.base.errors import UserError
from stages.core.train import compilation
from stages.core.train.batches import TrainingBatches
from stages.core.train.device_augmentation import ResidentBatches
from stages.core.train.evaluation import check_finite, evaluate_together
from stages.core.train.progress import Progress
from stages.core.train.side_by_side import Group
from stages.core.train.teacher import teacher_outputs
from stages.core.train.training import Training


def fit_together(
    trainings: Sequence[Training],
    batches: TrainingBatches | ResidentBatches,
    validation: DataLoader[Any] | Sequence[tuple[Tensor, Tensor]],
    *,
    checkpoint_s: float = 600.0,
    epoch_checkpoint_s: float = 0.0,
    terminated: Callable[[], Signals | None] = lambda: None,
) -> None:
    """Train models side by side with AdamW and a cosine schedule, evaluating after every epoch.

    Each batch is loaded once, and shown once to a teacher that several tasks share; then the models take their steps in
    turn, so that the activations of one are in memory at a time. The result of each equals that of training it alone.

    A model's checkpoint is saved after the last step of an epoch, before it is evaluated, and within an epoch, when the
    last one is old enough; before and after the last evaluation; and when the process is asked to terminate. So a
    failure after the last step costs no training, and no checkpoint holds a weight that is not finite. Training resumes
    from each model's last checkpoint, at the very step; the result equals that of an uninterrupted run, because every
    random choice is a function of seed and position, so that no random state has to be saved. A model that is further
    on than others waits for them. An evaluation that was interrupted is repeated. A step waits for the device only when
    losses are checked. A global batch is split evenly over processes and, on each, over micro-batches that fit its
    device; gradients are averaged over all of them.

    A model whose loss, weights or metrics are not finite ends alone, with its last checkpoint, and its `failure` says
    why; if it is the only one, or the last one left, that is a UserError.

    Args:
        trainings: the models, which take images normalised alike, by one recipe.
        batches: augmented training batches of each epoch, on the device of this process.
        validation: this process's batches to evaluate on.
        checkpoint_s: least age of the last checkpoint, in seconds, for another one within an epoch.
        epoch_checkpoint_s: likewise after an epoch.
        terminated: returns the signal that asked this process to stop, which makes all of them save and stop, or None.

    Raises:
        UserError: every model ended early, the checkpoint that is adopted does not fit, the device's memory is too
            small, or the disk is full.
        StoppedError: a process was asked to stop.
    """
    world, epochs = trainings[0].world, trainings[0].recipe.epochs
    if trainings[0].compiled:
        compilation.expect(len(trainings))
    for training in trainings:
        training.start()
    group = Group(
        trainings, world, terminated=terminated, checkpoint_s=checkpoint_s, epoch_checkpoint_s=epoch_checkpoint_s
    )
    shared = int(world.gather(torch.tensor([len(validation)])).min())  # evaluation batches that every process has
    done = min(len(training.state.history) for training in trainings)
    progress = Progress([training.run for training in trainings], done=done, epochs=epochs, world=world)
    for epoch in progress:
        # Where none is left at an epoch, those that were have ended early, and the others are further on.
        if group.at(epoch):
            _take_steps(group, batches, epoch)
        if group.at(epoch):
            last = epoch == epochs - 1
            group.finish_steps(epoch, last=last)
            finished = _evaluate(group, group.interruptible(validation, epoch, shared), epoch, progress)
            group.finish_epoch(finished, last=last)


def _take_steps(group: Group, batches: TrainingBatches | ResidentBatches, epoch: int) -> None:
    """The steps of an epoch: on each micro-batch those models take theirs in turn that have not taken it before."""
    sampler = batches.sampler
    for training in group.at(epoch):
        training.start_epoch(epoch)
    group.start_clock()
    start = min(training.state.steps_done for training in group.at(epoch))
    for position, (images, labels) in enumerate(batches.epoch(epoch, start), start * sampler.micro_batches):
        if not group.at(epoch):
            return
        batch, number = divmod(position, sampler.micro_batches)
        taking = [training for training in group.at(epoch) if training.state.steps_done == batch]
        try:
            outputs = teacher_outputs([training.task for training in taking], images)
            for training, teacher_output in zip(taking, outputs, strict=True):
                training.take(images, labels, teacher_output, number)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{group.world.device} has too little memory for {len(images)} images at a time; set DEVICE_BATCH to "
                f"less, {max(1, len(images) // 2)} say: the global batch and the result stay the same"
            ) from None
        if number == sampler.micro_batches - 1:
            group.after_step(taking, epoch * sampler.steps + batch + 1)


def _evaluate(
    group: Group, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, progress: Progress
) -> list[tuple[Training, dict[str, float]]]:
    """Evaluate the models of an epoch in one pass; returns those that have not diverged, with their metrics."""
    present = group.at(epoch)
    models = [model for training in present for model in training.evaluated.values()]
    measured = iter(evaluate_together(models, batches, group.world))
    finished = []
    for training in present:
        metrics = training.epoch_metrics(epoch)
        for suffix in training.evaluated:
            metrics |= {f"{name}{suffix}": value for name, value in next(measured).items()}
        with group.ending_alone(training):
            check_finite(metrics, f"after epoch {epoch}")
            training.log(metrics)
            progress.finished(training.run, metrics)
            training.keep_model(epoch + 1)
            finished.append((training, metrics))
    return finished
