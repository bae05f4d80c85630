"""How strongly a feature loss was applied: what it reached, against which the manipulation check is made.

Measured on trained students; training knows nothing of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from stages.core.analysis.last_block import map_rank
from stages.core.analysis.linear_probe import counted
from stages.core.base.names import Run
from stages.core.config.schema import Objective, Recipe
from stages.core.data.image_list import ImageList
from stages.core.distillation import lessons
from stages.core.distillation.projectors import MapProjector
from stages.core.distillation.task import MapDistillationTask, create_task
from stages.core.losses.targets import feature_target, has_target, pool_channels, tokens_of
from stages.core.models.blocks import recorded_blocks

CHUNK = 128  # images at a time; decides memory, and the batches of losses that normalise over one
GRADIENT_IMAGES = 64  # by which gradients of trained students are measured
STATISTICS_BATCH = 64  # training images at a time, of which targets take statistics; decides memory
SQUARES = ("mse", "spectral")  # losses that are sums of squared differences, whose directions can be told apart


class ManipulationCheck:
    """How strongly feature losses were applied: every student by each feature loss of its strategy.

    So a student that was trained without a loss says where the loss begins.

    Args:
        teacher: on `device`.
        teacher_maps: of its last block, on the analysis sample.
        batches: of the sample's images, normalised for the students.
        train_images: gives the training images, of which targets take statistics; called where there are such targets.
        recipe: a section of params.
        device: of the models.
    """

    def __init__(
        self,
        teacher: nn.Module,
        teacher_maps: Tensor,
        batches: Any,
        train_images: Callable[[], ImageList],
        *,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.teacher_maps, self.train_images, self.recipe, self.device = teacher_maps, train_images, recipe, device
        self.teacher = lessons.frozen_teacher(teacher, recipe, ("first", "last"), device)
        self.fixed = [part.to(device) for part in fixed_batch(batches, GRADIENT_IMAGES)]
        self.targets: dict[tuple[str, int], Any] = {}  # with their statistics, which all students of a width share

    def rows(
        self, run: Run, student: nn.Module, maps: Tensor, objectives: Mapping[str, Objective]
    ) -> list[dict[str, Any]]:
        """What `matching` of `stages.core.evidence.applied` holds of one student.

        Args:
            run: the run.
            student: its student, on `device`.
            maps: of the student's last block, on the analysis sample.
            objectives: by name, those that the run's strategy is trained with.
        """
        rows = []
        for name, objective in objectives.items():
            own = name == run.objective
            if objective.feature is None or not (measurable(objective) or own):
                continue
            task = self._task(student, objective, run.seed)
            row: dict[str, Any] = {"run": run.name, "objective": name}
            if measurable(objective):
                row |= reached(task, objective.feature, maps, self.teacher_maps)
            if own and objective.projector != "orthogonal":
                if objective.projector == "linear":
                    set_best_projector(task, maps, self.teacher_maps)
                row |= strength(task.to(self.device), *self.fixed)
            rows.append(row)
        return rows

    def _task(self, student: nn.Module, objective: Objective, seed: int) -> MapDistillationTask:
        smoothing = self.recipe.label_smoothing
        task = create_task(student, self.teacher, objective, label_smoothing=smoothing, device=self.device, seed=seed)
        assert isinstance(task, MapDistillationTask)
        if objective.target != "features":
            key = (str(objective.target), int(student.feature_info[-1]["num_chs"]))  # type: ignore[index]
            compared = unwrap_model(task.trainable_module)
            if key not in self.targets:
                lessons.set_targets([(objective, task)], self.train_images(), batch=STATISTICS_BATCH)
                self.targets[key] = compared.targets
            compared.targets = self.targets[key]
        return task


def measurable(objective: Objective) -> bool:
    """Whether the value of an objective's feature loss can be had of a trained student: no projector was trained."""
    return objective.feature is not None and objective.projector in (None, "frozen") and objective.blocks == ["last"]


@torch.no_grad()
def reached(
    task: MapDistillationTask, feature: str, student_maps: Tensor, teacher_maps: Tensor
) -> dict[str, float | None]:
    """The feature loss of a student on a set of images, and the least that it can be.

    Args:
        task: of the student and an objective that is `measurable`, with its targets' statistics.
        feature: the name of its feature loss.
        student_maps: of the student's last block, [images, channels, rows, columns].
        teacher_maps: the same of the teacher.

    Returns:
        * own, own_floor: the loss over that of a map of zeros, and what a map of the student's rank must have;
        * own_equal, own_equal_floor: the mean over the target's leading directions (`linear_probe.counted`) of the
          squared error along each over its energy, at most 1; None for a loss that is no sum of squares.

        None where the student's map cannot be compared with the teacher's.
    """
    loss, compared = task.feature_loss, unwrap_model(task.trainable_module)
    assert loss is not None
    if not loss.any_width and not task.pool_wider and not has_target(teacher_maps, student_maps):
        return dict.fromkeys(("own", "own_floor", "own_equal", "own_equal_floor"))
    projector, target = compared.projectors[0].cpu(), compared.targets[0].cpu()
    value = zeros = 0.0
    pairs = []
    for student, teacher in zip(student_maps.split(CHUNK), teacher_maps.split(CHUNK), strict=True):
        student = projector(student)
        value += len(student) * task.compare([student], [teacher]).item()
        zeros += len(student) * task.compare([torch.zeros_like(student)], [teacher]).item()
        teacher = target(teacher)
        if not loss.any_width:
            student = pool_channels(student, min(student.shape[1], teacher.shape[1]))
            pairs.append([tokens_of(maps).flatten(0, 1) for maps in (student, feature_target(teacher, student))])
    row: dict[str, float | None] = {"own": value / zeros, "own_floor": 0.0, "own_equal": None, "own_equal_floor": None}
    if pairs and feature in SQUARES:
        tokens, wanted = (torch.cat(parts).double().numpy() for parts in zip(*pairs, strict=True))
        error, energies = along_directions(tokens - wanted, wanted)
        rank = map_rank(compared.model)
        row["own_floor"] = float(energies[rank:].sum() / energies.sum())
        row["own_equal"] = float(np.minimum(error, 1).mean())
        row["own_equal_floor"] = max(0.0, 1 - rank / len(error))
    return row


def along_directions(difference: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The relative squared error along each leading direction of a target, and the energies of all.

    Args:
        difference, target: [tokens, channels].

    Returns:
        [directions], and [channels] from the largest.
    """
    energies, directions = np.linalg.eigh(target.T @ target)
    energies, directions = energies[::-1].clip(min=0), directions[:, ::-1]
    count = counted(energies)
    return ((difference @ directions[:, :count]) ** 2).sum(0) / energies[:count], energies


def set_best_projector(task: MapDistillationTask, student_maps: Tensor, teacher_maps: Tensor) -> None:
    """Give a task, in the place of the projector that was trained and not saved, the best one on a set of images."""
    projector = unwrap_model(task.trainable_module).projectors[0]
    if isinstance(projector, MapProjector):
        tokens, wanted = (tokens_of(maps).flatten(0, 1).double() for maps in (student_maps, teacher_maps))
        tokens = torch.cat([tokens, torch.ones(len(tokens), 1, dtype=tokens.dtype)], dim=1)
        weight = torch.linalg.lstsq(tokens, wanted, driver="gelsd").solution
        with torch.no_grad():
            projector.linear.weight.copy_(weight[:-1].T)
            projector.linear.bias.copy_(weight[-1])


def strength(task: MapDistillationTask, images: Tensor, labels: Tensor) -> dict[str, float | None]:
    """How much of the loss is the feature loss, and how strong its gradient is, on one batch.

    Args:
        task: of a trained student, with its targets' statistics and its projector.
        images: [images, 3, height, width], normalised for the student.
        labels: [images].

    Returns:
        * loss_share: w·L_feature in the whole loss;
        * gradient_ratio: the norm of its gradient over that of the cross-entropy's part, both with respect to what
          enters the last block; None of a student of one block, or without labels in its loss.
    """
    trained = unwrap_model(task.trainable_module).eval()
    with recorded_blocks(trained.model) as outputs:
        parts = task(images, labels)
        tokens = outputs[-2] if len(outputs) > 1 else None
    feature, labelled = task.feature_weight * parts["feature_loss"], task.task_loss_weight * parts["task_loss"]
    share = (feature / parts["loss"]).item()
    if tokens is None or not task.task_loss_weight:
        return {"loss_share": share, "gradient_ratio": None}
    norms = [_norm(torch.autograd.grad(part, tokens, retain_graph=True)[0]) for part in (feature, labelled)]
    return {"loss_share": share, "gradient_ratio": norms[0] / norms[1] if norms[1] else None}


def _norm(gradient: Tensor) -> float:
    return float(gradient.double().norm())


def fixed_batch(batches: Any, count: int) -> tuple[Tensor, Tensor]:
    """Some images of batches and their labels, evenly spaced in their order.

    Args:
        batches: of images and labels.
        count: how many are wanted, at most.
    """
    labels = torch.cat([batch for _, batch in batches])
    chosen = np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int)
    images, first = [], 0
    for batch, _ in batches:
        inside = chosen[(chosen >= first) & (chosen < first + len(batch))] - first
        images.append(batch[torch.from_numpy(inside).to(batch.device)])
        first += len(batch)
    return torch.cat(images), labels[torch.from_numpy(chosen).to(labels.device)]
