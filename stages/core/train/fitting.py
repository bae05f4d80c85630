"""Fit a model by a recipe, resumably, and save it with its metrics: what `teach` and `train` share."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.task import TrainingTask
from torch import nn

from stages.core.config.schema import Dataset, Objective, Recipe
from stages.core.data.batches import evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.data.loader import waited_s
from stages.core.data.unreadable import SkippingImages
from stages.core.models.cost import flops
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.runtime.stopping import stops_deferred
from stages.core.train import compilation, finished
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.device_augmentation import Augmentation, ResidentBatches
from stages.core.train.evaluation import DivergedError, FinalEvaluation, check_finite, evaluate_together
from stages.core.train.jobs import Job, check_batch_norm, check_images, check_together
from stages.core.train.loop import fit_together
from stages.core.train.optimization import Optimization
from stages.core.train.outputs import LIVE, keeper, live_log, write_run
from stages.core.train.sampler import EpochSampler
from stages.core.train.side_by_side import all_failures
from stages.core.train.tasks import labels_task
from stages.core.train.trainee import Trainee

EPOCH_CHECKPOINT_S = 30.0  # so that epochs of a second do not all wait for the disk
NO_DISTILLATION = Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0)


def model_options(data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `folders.create` that follow from dataset and recipe."""
    names = {"classes", "image_size", "crop_pct", "interpolation", "mean", "std"}
    return {**data.model_dump(include=names), "position_std": recipe.position_std}


def decays_embeddings(recipe: Recipe, model: nn.Module) -> bool:
    """Whether a recipe decays the position embedding and the class token of a model."""
    return recipe.decay_embeddings == "lift_and_widen" and getattr(model, "decays_all_in_release", False)


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


class Lessons(Protocol):
    """What the models of a group learn from: labels alone, or a teacher as well."""

    def tasks(
        self, jobs: Sequence[Job], models: Sequence[nn.Module], images: ImageList, sampler: EpochSampler
    ) -> list[TrainingTask]:
        """The model and the loss of each job."""

    def flops(self, jobs: Sequence[Job], image_size: int) -> int:
        """Floating-point operations for each image beside the models' own."""

    def evaluate(
        self, models: Sequence[nn.Module], validation: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[FinalEvaluation]:
        """What is measured of each model after its last epoch."""


@dataclass(frozen=True)
class LabelsAlone:
    """The lessons of a model without a teacher: the cross-entropy, with smoothing."""

    recipe: Recipe
    world: World

    def tasks(
        self, jobs: Sequence[Job], models: Sequence[nn.Module], images: ImageList, sampler: EpochSampler
    ) -> list[TrainingTask]:
        """See `Lessons`."""
        return [labels_task(model, self.recipe.label_smoothing, self.world.device) for model in models]

    def flops(self, jobs: Sequence[Job], image_size: int) -> int:
        """See `Lessons`."""
        return 0

    def evaluate(
        self, models: Sequence[nn.Module], validation: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[FinalEvaluation]:
        """See `Lessons`."""
        return [FinalEvaluation(measured) for measured in evaluate_together(models, validation, self.world)]


def fit_and_save(
    jobs: Sequence[Job],
    lessons: Lessons,
    *,
    world: World,
    train_images: ImageList,
    val_images: ImageList,
    data: Dataset,
    recipe: Recipe,
) -> None:
    """Fit models side by side and write the folder of each: see `write_run`. A single model is a group of one.

    A run that was finished before, with the same settings, data, teacher, code and libraries, is taken as it is; the
    others are trained from where they were interrupted.

    Args:
        jobs: the models.
        lessons: what they learn from.
        world: the processes that train together; the first of them writes.
        train_images, val_images: the images to train on and to evaluate on.
        data, recipe: sections of params.

    Raises:
        UserError: see `check_together` and `fit_together`; or some models ended early, and the others are written.
    """
    check_together(jobs)
    with locked(jobs, world) as folders:
        left = [(job, folder) for job, folder in zip(jobs, folders, strict=True) if not taken(job, folder, world)]
        if left:
            if data.unreadable == "skip":
                fresh = machine.fresh() and world.primary
                train_images = SkippingImages.of(train_images, *[folder.journal for _, folder in left], fresh=fresh)
            fit_side_by_side(left, lessons, world, train_images, val_images, data, recipe)


@contextmanager
def locked(jobs: Sequence[Job], world: World) -> Iterator[list[CheckpointFolder]]:
    """The checkpoint folder of each job, locked."""
    folders = [
        CheckpointFolder(
            machine.checkpoints(),
            job.run,
            job.identity,
            job.trained_by(),
            fresh=machine.fresh(),
            adopt=machine.adopt(),
            writes=world.primary,
            in_any=lambda statement: world.any([statement])[0],
        )
        for job in jobs
    ]
    with ExitStack() as stack:
        for folder in sorted(folders, key=lambda one: one.folder):  # so that two groups do not wait for each other
            stack.enter_context(folder)
        if world.primary:  # the process that has deleted the old ones
            machine.note_fresh_start()
        yield folders


def taken(job: Job, checkpoints: CheckpointFolder, world: World) -> bool:
    """Write the folder of a job from the output that its run left when it was finished; whether there was one."""
    found = world.primary and finished.take(checkpoints.folder, job.folder, job.written_by())
    if found:
        print(f"{job.run}: finished before -> {job.folder}", flush=True)
    return world.any([found])[0]


def fit_side_by_side(
    left: Sequence[tuple[Job, CheckpointFolder]],
    lessons: Lessons,
    world: World,
    train_images: ImageList,
    val_images: ImageList,
    data: Dataset,
    recipe: Recipe,
) -> None:
    """Train the models of jobs, each from its checkpoint; evaluate and write those that did not end early."""
    jobs, folders = [job for job, _ in left], [folder for _, folder in left]
    machine.share_cores(world.device, loading=0 if recipe.augment.on_device else None)  # resident images are in memory
    models, records = zip(*[job.create() for job in jobs], strict=True)
    check_images(jobs, models)
    seed = jobs[0].seed
    training = training_batches(train_images, models[0], recipe, seed=seed, world=world)
    sampler = training.sampler
    for job, model in zip(jobs, models, strict=True):
        check_batch_norm(job, model, pieces=sampler.pieces, processes=world.size)
    validation = evaluation_batches(val_images, models[0], batch=sampler.piece, workers=machine.workers(), world=world)
    tasks = lessons.tasks(jobs, models, train_images, sampler)
    passes = recipe.epochs * sampler.steps * sampler.pieces  # forward and backward
    image_flops = sum(3 * flops(model, data.image_size) for model in models) + lessons.flops(jobs, data.image_size)
    worthwhile = compilation.pays(len(models), passes, passes * sampler.piece * image_flops)
    with ExitStack() as logs:
        trainees = [
            Trainee(
                task,
                folder,
                decays_embeddings(recipe, model),
                logs.enter_context(live_log(folder.folder / LIVE)) if world.primary else lambda _: None,
                keeper(model, record, folder, recipe.keep_epochs) if world.primary else lambda _: None,
            )
            for model, record, task, folder in zip(models, records, tasks, folders, strict=True)
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
    done = [position for position, failure in enumerate(failures) if failure is None]
    evaluations = lessons.evaluate([models[position] for position in done], validation) if done else []
    for position, final in zip(done, evaluations, strict=True):
        job, folder = jobs[position], folders[position]
        try:
            check_finite(final.metrics, "after the last epoch")
        except DivergedError as failure:
            failures[position] = failure
            continue
        if world.primary:
            write_run(
                models[position],
                fitted[position],
                final,
                folder,
                data=data,
                recipe=recipe,
                seed=seed,
                command=job.command,
                record=records[position],
                unreadable=unreadable,
                device=world.device,
            )
            finished.keep(folder.folder, job.written_by())
            finished.take(folder.folder, job.folder, job.written_by())
            top1, speed = final.metrics["top1"], fitted[position].images_per_s
            print(f"{job.run}: top-1 {top1:.2f} %, {speed:,.0f} images/s -> {job.folder}", flush=True)
    if any(failures):
        raise all_failures([(job.run, failure) for job, failure in zip(jobs, failures, strict=True)])
