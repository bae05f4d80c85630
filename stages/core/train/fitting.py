"""Fit a model by a recipe, resumably, and save it with its metrics: what `teach` and `train` share."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.task import TrainingTask
from torch import nn
from torch.utils.data import Subset

from stages.core.base.errors import UserError
from stages.core.config.schema import Dataset, Objective, Recipe
from stages.core.data.batches import Images, evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader, waited_s
from stages.core.data.unreadable import SkippingImages
from stages.core.models.cost import flops
from stages.core.models.students import ALTERED
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.runtime.stopping import stops_deferred
from stages.core.train import balancing, compilation
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.evaluation import (
    DivergedError,
    check_finite,
    evaluate_all_against_teacher,
    evaluate_together,
)
from stages.core.train.group import all_failures
from stages.core.train.jobs import Job, check_together
from stages.core.train.loop import fit_together
from stages.core.train.losses import FEATURE_LOSSES
from stages.core.train.optimization import PRECISIONS, Optimization
from stages.core.train.outputs import LIVE, keeper, live_log, write_run
from stages.core.train.resident import Augmentation, ResidentBatches
from stages.core.train.sampler import EpochSampler
from stages.core.train.task import MapDistillationTask, bare_model, create_task
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.trainee import Trainee

EPOCH_CHECKPOINT_S = 30.0  # so that epochs of a second do not all wait for the disk
NO_DISTILLATION = Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0)


def model_options(data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `folders.create` that follow from dataset and recipe."""
    names = {"classes", "image_size", "crop_pct", "interpolation", "mean", "std"}
    return {**data.model_dump(include=names), "position_std": recipe.position_std}


def teacher_precision(recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `create_task` for `recipe.teacher_precision`."""
    precision = PRECISIONS[recipe.precision]
    if recipe.teacher_precision == "rounded" or precision == torch.float32:
        return {"teacher_dtype": precision, "teacher_autocast": None}
    return {"teacher_dtype": torch.float32, "teacher_autocast": precision}


def decays_embeddings(recipe: Recipe, model: nn.Module) -> bool:
    """Whether a recipe decays the position embedding and the class token of a model."""
    return recipe.decay_embeddings == "lift_and_widen" and isinstance(model, ALTERED)


def training_batches(
    images: ImageList, model: nn.Module, recipe: Recipe, *, seed: int, world: World
) -> TrainingBatches | ResidentBatches:
    """Training batches by a recipe, augmented in loading processes or on the device."""
    augment = recipe.augment.model_dump()
    sampler = EpochSampler(
        len(images.files),
        seed,
        batch=recipe.global_batch,
        world=world,
        device_batch=machine.device_batch(),
        steps=recipe.epoch_steps,
        repeats=augment.pop("repeats"),
    )
    if augment.pop("on_device"):
        del augment["auto_augment"]
        augmentation = Augmentation(**augment)
        return ResidentBatches(images, model, sampler, augmentation=augmentation, workers=machine.workers())
    del augment["padding"]
    return TrainingBatches(images, model, sampler, augment=augment, workers=machine.workers())


def balance(task: MapDistillationTask, images: ImageList, *, batch: int) -> None:
    """Set the statistics of a task's balanced targets from training images, without augmentation.

    Every process computes them from the same images; the first one's are used by all, and by a resumed run.
    """
    whole = Images(images, create_transform(**resolve_model_data_config(bare_model(task))))
    chosen = np.linspace(0, len(whole) - 1, min(len(whole), balancing.IMAGES)).round().astype(int).tolist()
    task.balance(Loader(Subset(whole, chosen), workers=machine.workers(), batch_size=batch))


def fit_and_save(
    jobs: Sequence[Job],
    teacher: nn.Module | None,
    *,
    world: World,
    train_images: ImageList,
    val_images: ImageList,
    data: Dataset,
    recipe: Recipe,
) -> None:
    """Fit models side by side and write the folder of each: see `write_run`. A single model is a group of one.

    Args:
        jobs: the models.
        teacher: the model to distil from and to compare features with, on the same device; None to fit a teacher.
        world: the processes that train together; the first of them writes.
        train_images, val_images: the images to train on and to evaluate on.
        data, recipe: sections of params.

    Raises:
        UserError: see `check_together` and `fit_together`; or some models ended early, and the others are written.
    """
    check_together(jobs)
    machine.share_cores(world.device, loading=0 if recipe.augment.on_device else None)  # resident images are in memory
    seed = jobs[0].seed
    folders = [
        CheckpointFolder(
            machine.checkpoints(),
            job.run,
            job.identity,
            fresh=machine.fresh(),
            adopt=machine.adopt(),
            writes=world.primary,
            in_any=lambda statement: world.any([statement])[0],
        )
        for job in jobs
    ]
    if data.unreadable == "skip":
        fresh = machine.fresh() and world.primary
        train_images = SkippingImages.of(train_images, *[one.journal for one in folders], fresh=fresh)
    training = training_batches(train_images, jobs[0].model, recipe, seed=seed, world=world)
    sampler = training.sampler
    validation = evaluation_batches(
        val_images, jobs[0].model, batch=sampler.piece, workers=machine.workers(), world=world
    )
    tasks = make_tasks(jobs, teacher, train_images, recipe, sampler, world)
    passes = recipe.epochs * sampler.steps * sampler.pieces  # forward and backward
    image_flops = max(3 * flops(job.model, data.image_size) for job in jobs)
    if teacher is not None and any(job.distils for job in jobs):
        image_flops += flops(teacher, data.image_size)
    worthwhile = compilation.pays(passes, passes * sampler.piece * image_flops)
    with ExitStack() as stack:
        for one in sorted(folders, key=lambda one: one.folder):  # so that two groups do not wait for each other
            stack.enter_context(one)
        if world.primary:  # the process that has deleted the old ones
            machine.note_fresh_start()
        with ExitStack() as logs:
            trainees = [
                Trainee(
                    task,
                    checkpoints,
                    decays_embeddings(recipe, job.model),
                    logs.enter_context(live_log(checkpoints.folder / LIVE)) if world.primary else lambda _: None,
                    keeper(job, checkpoints, recipe.keep_epochs) if world.primary else lambda _: None,
                )
                for job, task, checkpoints in zip(jobs, tasks, folders, strict=True)
            ]
            terminated = logs.enter_context(stops_deferred(waited_s))
            fitted = fit_together(
                trainees,
                training,
                validation,
                Optimization(**recipe.optimization()),
                seed=seed,
                world=world,
                checkpoint_s=machine.checkpoint_s(),
                epoch_checkpoint_s=EPOCH_CHECKPOINT_S,
                terminated=terminated,
                compiled=machine.compiled(world.device, worthwhile=worthwhile),
            )
        unreadable = train_images.unreadable()
        if unreadable and world.primary:
            names = ", ".join(unreadable)
            print(f"warning: {len(unreadable)} training images cannot be decoded, replaced: {names}", file=sys.stderr)
        failures = [one.failure for one in fitted]
        finished = [position for position, failure in enumerate(failures) if failure is None]
        finals = evaluate_finally([jobs[position].model for position in finished], teacher, validation, world)
        for position, (measured, predictions) in zip(finished, finals, strict=True):
            job, checkpoints = jobs[position], folders[position]
            try:
                check_finite(measured, "after the last epoch")
            except DivergedError as failure:
                failures[position] = failure
                continue
            if world.primary:
                write_run(
                    job.folder,
                    job.model,
                    fitted[position],
                    measured,
                    predictions,
                    checkpoints,
                    data=data,
                    recipe=recipe,
                    seed=seed,
                    command=job.command,
                    record=job.record,
                    unreadable=unreadable,
                    device=world.device,
                )
        if any(failures):
            raise all_failures([(job.run, failure) for job, failure in zip(jobs, failures, strict=True)])


def make_tasks(
    jobs: Sequence[Job],
    teacher: nn.Module | None,
    train_images: ImageList,
    recipe: Recipe,
    sampler: EpochSampler,
    world: World,
) -> list[TrainingTask]:
    """The tasks of several jobs, which share one frozen copy of the teacher.

    Raises:
        UserError: an objective needs a global batch in one piece, which DEVICE_BATCH splits.
    """
    precision = teacher_precision(recipe)
    shared = None
    if teacher is not None and any(job.distils for job in jobs):
        blocks = sorted({block for job in jobs if job.distils for block in job.objective.blocks})
        options = {"dtype": precision["teacher_dtype"], "autocast": precision["teacher_autocast"]}
        shared = FrozenTeacher(teacher, blocks, device=world.device, **options)
    tasks = []
    for job in jobs:
        feature = job.objective.feature
        if sampler.pieces > 1 and feature and FEATURE_LOSSES[feature].whole_batch:
            raise UserError(
                f"objective.definitions: the feature loss {feature} normalises over the whole batch, "
                f"which DEVICE_BATCH splits into {sampler.pieces} pieces; unset DEVICE_BATCH, or take another objective"
            )
        task = create_task(
            job.model,
            shared,
            **job.objective.model_dump(),
            label_smoothing=recipe.label_smoothing,
            device=world.device,
            seed=job.seed,
        )
        if isinstance(task, MapDistillationTask) and job.objective.target == "balanced":
            balance(task, train_images, batch=sampler.piece)
        tasks.append(task)
    return tasks


def evaluate_finally(
    models: Sequence[nn.Module],
    teacher: nn.Module | None,
    validation: Iterable[tuple[torch.Tensor, torch.Tensor]],
    world: World,
) -> list[tuple[Mapping[str, float | None], np.ndarray | None]]:
    """Metrics of each model after its last epoch, and with a teacher its predictions [images]."""
    if not models:
        return []
    if teacher is None:
        return [(measured, None) for measured in evaluate_together(models, validation, world)]
    finals = evaluate_all_against_teacher(models, teacher, validation, world)
    return [(final.metrics, final.predictions) for final in finals]
