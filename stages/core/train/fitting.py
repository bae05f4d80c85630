"""Fit a model by a recipe, resumably, and save it with its metrics: what `teach` and `train` share."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from timm.task import TrainingTask
from torch import nn

from stages.core.config.schema import Dataset, Objective, Recipe
from stages.core.data.batches import Batch, evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader, waited_s
from stages.core.data.unreadable import SkippingImages
from stages.core.models.cost import flops
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.runtime.stopping import stops_deferred
from stages.core.train import compilation, finished
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.device_augmentation import ResidentBatches
from stages.core.train.evaluation import DivergedError, FinalEvaluation, check_finite, evaluate_together
from stages.core.train.jobs import Job, check_batch_norm, check_images, check_together
from stages.core.train.loop import fit_together
from stages.core.train.outputs import LIVE, live_log, write_run
from stages.core.train.sampler import EpochSampler
from stages.core.train.side_by_side import all_failures
from stages.core.train.tasks import labels_task
from stages.core.train.training import Training

EPOCH_CHECKPOINT_S = 30.0  # so that epochs of a second do not all wait for the disk
NO_DISTILLATION = Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0)


def model_options(data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `folders.create` that follow from dataset and recipe."""
    names = {"classes", "image_size", "crop_pct", "interpolation", "mean", "std"}
    return {**data.model_dump(include=names), "position_std": recipe.position_std}


class Lessons(Protocol):
    """What the models of a group learn from: labels alone, or a teacher as well."""

    def tasks(
        self, jobs: Sequence[Job], models: Sequence[nn.Module], images: ImageList, sampler: EpochSampler
    ) -> list[TrainingTask]:
        """The model and the loss of each job."""

    def flops(self, jobs: Sequence[Job], image_size: int) -> int:
        """Floating-point operations for each image beside the models' own."""

    def evaluate(self, models: Sequence[nn.Module], validation: Iterable[Batch]) -> list[FinalEvaluation]:
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

    def evaluate(self, models: Sequence[nn.Module], validation: Iterable[Batch]) -> list[FinalEvaluation]:
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
        if not left:
            return
        if data.unreadable == "skip":
            fresh = machine.fresh() and world.is_main
            train_images = SkippingImages.of(train_images, *[folder.journal for _, folder in left], fresh=fresh)
        trainings, batches, validation = prepare(left, lessons, train_images, val_images, data, recipe, world)
        train(trainings, batches, validation)
        save([job for job, _ in left], trainings, lessons, validation, data, train_images.unreadable())


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
            writes=world.is_main,
            in_any=lambda statement: world.any([statement])[0],
        )
        for job in jobs
    ]
    with ExitStack() as stack:
        # In one order, so that two groups do not wait for each other.
        for checkpoints in sorted(folders, key=lambda each: each.folder):
            stack.enter_context(checkpoints)
        if world.is_main:  # the process that has deleted the old ones
            machine.note_fresh_start()
        yield folders


def taken(job: Job, checkpoints: CheckpointFolder, world: World) -> bool:
    """Write the folder of a job from the output that its run left when it was finished; whether there was one."""
    was_finished = world.is_main and finished.take(checkpoints.folder, job.folder, job.written_by())
    if was_finished:
        print(f"{job.run}: finished before -> {job.folder}", flush=True)
    return world.any([was_finished])[0]


def prepare(
    left: Sequence[tuple[Job, CheckpointFolder]],
    lessons: Lessons,
    train_images: ImageList,
    val_images: ImageList,
    data: Dataset,
    recipe: Recipe,
    world: World,
) -> tuple[list[Training], TrainingBatches | ResidentBatches, Loader | list[Batch]]:
    """Make the models of jobs; returns them ready to train, with the batches to train and to evaluate on."""
    jobs = [job for job, _ in left]
    machine.share_cores(world.device, loading=0 if recipe.augment.on_device else None)  # resident images are in memory
    models, records = zip(*[job.create() for job in jobs], strict=True)
    check_images(jobs, models)
    batches = training_batches(train_images, models[0], recipe, seed=jobs[0].seed, world=world)
    sampler = batches.sampler
    for job, model in zip(jobs, models, strict=True):
        check_batch_norm(job, model, micro_batches=sampler.micro_batches, processes=world.size)
    validation = evaluation_batches(
        val_images, models[0], batch=sampler.micro_batch, workers=machine.workers(), world=world
    )
    tasks = lessons.tasks(jobs, models, train_images, sampler)
    passes = recipe.epochs * sampler.steps * sampler.micro_batches  # forward and backward
    image_flops = sum(3 * flops(model, data.image_size) for model in models) + lessons.flops(jobs, data.image_size)
    worthwhile = compilation.pays(len(models), passes, passes * sampler.micro_batch * image_flops)
    compiled = machine.compiled(world.device, worthwhile=worthwhile)
    trainings = [
        Training(task, checkpoints, recipe, sampler, seed=sampler.seed, world=world, record=record, compiled=compiled)
        for task, (_, checkpoints), record in zip(tasks, left, records, strict=True)
    ]
    return trainings, batches, validation


def training_batches(
    images: ImageList, model: nn.Module, recipe: Recipe, *, seed: int, world: World
) -> TrainingBatches | ResidentBatches:
    """Training batches by a recipe, augmented in loading processes or on the device."""
    sampler = EpochSampler(
        len(images.files),
        seed,
        batch=recipe.global_batch,
        world=world,
        device_batch=machine.device_batch(),
        steps=recipe.epoch_steps,
        repeats=recipe.augment.repeats,
    )
    if recipe.augment.on_device:
        return ResidentBatches(images, model, sampler, augment=recipe.augment, workers=machine.workers())
    return TrainingBatches(images, model, sampler, augment=recipe.augment, workers=machine.workers())


def train(
    trainings: Sequence[Training], batches: TrainingBatches | ResidentBatches, validation: Loader | list[Batch]
) -> None:
    """Train models, each from its checkpoint; a signal that asks to stop is deferred until they are saved."""
    with ExitStack() as logs, stops_deferred(waited_s) as terminated:
        for training in trainings:
            if training.world.is_main:
                training.log = logs.enter_context(live_log(training.checkpoints.folder / LIVE))
        fit_together(
            trainings,
            batches,
            validation,
            checkpoint_s=machine.checkpoint_s(),
            epoch_checkpoint_s=EPOCH_CHECKPOINT_S,
            terminated=terminated,
        )


def save(
    jobs: Sequence[Job],
    trainings: Sequence[Training],
    lessons: Lessons,
    validation: Iterable[Batch],
    data: Dataset,
    unreadable: Sequence[str],
) -> None:
    """Evaluate the models that did not end early, and write the folder of each.

    Raises:
        UserError: some ended early.
    """
    writes = trainings[0].world.is_main
    if unreadable and writes:
        names = ", ".join(unreadable)
        print(f"warning: {len(unreadable)} training images cannot be decoded, replaced: {names}", file=sys.stderr)
    done = [(job, training) for job, training in zip(jobs, trainings, strict=True) if training.failure is None]
    evaluations = lessons.evaluate([training.model for _, training in done], validation) if done else []
    for (job, training), final in zip(done, evaluations, strict=True):
        try:
            check_finite(final.metrics, "after the last epoch")
        except DivergedError as failure:
            training.failure = failure
            continue
        if writes:
            write_run(training, final, data=data, command=job.command, unreadable=unreadable)
            folder = training.checkpoints.folder
            finished.keep(folder, job.written_by())
            finished.take(folder, job.folder, job.written_by())
            top1, speed = final.metrics["top1"], training.state.images_per_s
            print(f"{job.run}: top-1 {top1:.2f} %, {speed:,.0f} images/s -> {job.folder}", flush=True)
    if any(training.failure for training in trainings):
        raise all_failures(trainings)
