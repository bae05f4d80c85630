"""What the students of a group learn: each its objective, all from one pass of one teacher."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.task import TrainingTask
from torch import nn
from torch.utils.data import Subset

from stages.core.base.errors import UserError
from stages.core.config.schema import Objective, Recipe
from stages.core.data.batches import Images
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.distillation import balanced_targets
from stages.core.distillation.against_teacher import evaluate_against_teacher
from stages.core.distillation.principal_targets import Moments, match_leading_directions
from stages.core.distillation.task import MapDistillationTask, create_task
from stages.core.losses.by_name import feature_loss, module_of
from stages.core.models.cost import flops
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import FinalEvaluation
from stages.core.train.jobs import Job
from stages.core.train.optimization import PRECISIONS
from stages.core.train.sampler import EpochSampler
from stages.core.train.tasks import bare_model
from stages.core.train.teacher import FrozenTeacher


class Distillation:
    """Lessons of several students that share one frozen copy of a teacher; see `stages.core.train.fitting.Lessons`.

    Args:
        load: gives the teacher, on the device of `world`; called where there is something to train.
        recipe: a section of params.
        world: the processes that train together.
    """

    def __init__(self, load: Callable[[], nn.Module], recipe: Recipe, world: World) -> None:
        self.load, self.recipe, self.world = load, recipe, world

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher, in evaluation mode."""
        return self.load()

    def tasks(
        self, jobs: Sequence[Job], models: Sequence[nn.Module], images: ImageList, sampler: EpochSampler
    ) -> list[TrainingTask]:
        """The model and the objective of each job.

        Raises:
            UserError: an objective needs a whole global batch at a time, which DEVICE_BATCH splits.
        """
        shared = self._shared_teacher(jobs)
        tasks = []
        for job, model in zip(jobs, models, strict=True):
            feature = job.objective.feature
            if sampler.micro_batches > 1 and feature and feature_loss(feature).whole_batch:
                raise UserError(
                    f"objective.definitions: the feature loss {feature} normalises over the whole batch, which "
                    f"DEVICE_BATCH splits into {sampler.micro_batches} micro-batches; unset DEVICE_BATCH, or take "
                    "another objective"
                )
            task = create_task(
                model,
                shared,
                job.objective,
                label_smoothing=self.recipe.label_smoothing,
                device=self.world.device,
                seed=job.seed,
            )
            tasks.append(task)
        set_targets(
            [(job.objective, task) for job, task in zip(jobs, tasks, strict=True)], images, batch=sampler.micro_batch
        )
        return tasks

    def _shared_teacher(self, jobs: Sequence[Job]) -> FrozenTeacher | None:
        distilled = [job.objective for job in jobs if job.objective.distils]
        if not distilled:
            return None
        blocks = sorted({block for objective in distilled if objective.feature for block in objective.blocks})
        return frozen_teacher(self.teacher, self.recipe, blocks, self.world.device)

    def flops(self, jobs: Sequence[Job], image_size: int) -> int:
        """The teacher's operations for each image; 0 where no objective asks it."""
        return flops(self.teacher, image_size) if any(job.objective.distils for job in jobs) else 0

    def evaluate(
        self, models: Sequence[nn.Module], validation: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[FinalEvaluation]:
        """Accuracy and predictions of each student, and how far its features are from the teacher's."""
        return evaluate_against_teacher(models, self.teacher, validation, self.world)


def modules(objective: Objective) -> list[str]:
    """The modules whose code decides what a student learns by an objective."""
    if not objective.distils:
        return []
    own = [module_of(objective.feature)] if objective.feature else []
    own += ["stages.core.distillation.principal_targets"] if objective.target == "principal" else []
    return ["stages.core.distillation.task", *own]


def frozen_teacher(teacher: nn.Module, recipe: Recipe, blocks: Sequence[str], device: torch.device) -> FrozenTeacher:
    """A frozen copy of a teacher that computes in `recipe.teacher_precision` and gives the maps of blocks."""
    precision = PRECISIONS[recipe.precision]
    if recipe.teacher_precision == "rounded" or precision == torch.float32:
        return FrozenTeacher(teacher, blocks, device=device, dtype=precision)
    return FrozenTeacher(teacher, blocks, device=device, autocast=precision)


def set_targets(tasks: Sequence[tuple[Objective, TrainingTask]], images: ImageList, *, batch: int) -> None:
    """Set what tasks' targets take from training images, without augmentation: statistics, leading directions.

    Every process computes them from the same images; the first one's are used by all, and by a resumed run.
    """
    mapped = [(objective.target, task) for objective, task in tasks if isinstance(task, MapDistillationTask)]
    for target, task in mapped:
        if target == "balanced":
            task.balance(statistics_batches(task, images, batch=batch))

    def moments(task: MapDistillationTask, position: int) -> Moments:
        batches = statistics_batches(task, images, batch=batch)
        maps = (task.teacher_output(shown.to(task.device)).maps[position] for shown, _ in batches)
        return balanced_targets.token_moments(maps)

    match_leading_directions([task for target, task in mapped if target == "principal"], moments)


def statistics_batches(task: MapDistillationTask, images: ImageList, *, batch: int) -> Loader:
    """Training images that statistics of a target are taken from, evenly spaced, without augmentation."""
    whole = Images(images, create_transform(**resolve_model_data_config(bare_model(task))))
    chosen = np.linspace(0, len(whole) - 1, min(len(whole), balanced_targets.IMAGES)).round().astype(int).tolist()
    return Loader(Subset(whole, chosen), workers=machine.workers(), batch_size=batch)
