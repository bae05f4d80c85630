"""Accuracy of a model on the validation images, and the distance of its features from the teacher's."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.models.normalization import renormalization
from stages.core.models.students import forward_with_map
from stages.core.runtime.distributed import World
from stages.core.train.losses import feature_target, has_target


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World) -> dict[str, float]:
    """Cross-entropy (without smoothing), top-1 and top-5 accuracy in percent, over the batches of all processes."""
    (measured,) = evaluate_together([model], batches, world)
    return measured


@torch.no_grad()
def evaluate_together(
    models: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]], world: World
) -> list[dict[str, float]]:
    """What `evaluate` measures, for several models in one pass over the batches: each image is decoded once."""
    evaluators = [ClassificationEvaluator(world.device) for _ in models]
    for model in models:
        model.eval()
    for images, labels in on_device(batches, world.device):
        for model, evaluator in zip(models, evaluators, strict=True):
            evaluator.update(model(images), labels)
    return [dict(evaluator.compute(distributed=world.size > 1)) for evaluator in evaluators]


def on_device(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on a device; a copy from pinned memory does not wait for the device's earlier work."""
    for images, labels in batches:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class DivergedError(UserError):
    """A model's loss, weights or metrics are not finite: its training ends, that of others beside it need not."""


def check_finite(metrics: Mapping[str, float | None], moment: str) -> None:
    """Check that no metric is infinite or NaN.

    Args:
        metrics: by name; None is not checked.
        moment: when they were measured, for the message.

    Raises:
        DivergedError: the text names the metric.
    """
    for name, value in metrics.items():
        if value is not None and not math.isfinite(value):
            raise DivergedError(f"{name} is {value} {moment}; lower recipe.lr or set recipe.clip_grad")


@dataclass(frozen=True)
class FinalEvaluation:
    """Results of one pass over the validation images.

    Attributes:
        metrics: loss, top1 and top5 in percent, relative_feature_error (a share of the teacher's energy; None for a
            student that is wider than its teacher).
        predictions: the predicted class of each image, [images].
    """

    metrics: dict[str, float | None]
    predictions: np.ndarray


def evaluate_against_teacher(
    student: nn.Module, teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World
) -> FinalEvaluation:
    """Accuracy of a student and the relative feature error ‖S - T‖² / ‖T‖² of its last-block map.

    S is the student's map, T the teacher's at the student's width (see `feature_target`); both norms are summed over
    the validation images of all processes.

    Raises:
        UserError: the grids of the two maps differ.
    """
    (final,) = evaluate_all_against_teacher([student], teacher, batches, world)
    return final


@torch.no_grad()
def evaluate_all_against_teacher(
    students: Sequence[nn.Module], teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World
) -> list[FinalEvaluation]:
    """`evaluate_against_teacher` for students that take images normalised alike, in one pass of the teacher."""
    renormalize = renormalization(students[0], teacher, world.device)
    compared = [_Compared(student.eval(), world) for student in students]
    for images, labels in on_device(batches, world.device):
        _, teacher_map = forward_with_map(teacher, renormalize(images))
        for one in compared:
            one.update(images, labels, teacher_map)
    return [one.result() for one in compared]


class _Compared:
    """A student beside its teacher, batch by batch."""

    def __init__(self, student: nn.Module, world: World) -> None:
        self.student, self.world = student, world
        self.evaluator = ClassificationEvaluator(world.device)
        self.predictions: list[Tensor] = []
        self.sums: list[Tensor] = []

    def update(self, images: Tensor, labels: Tensor, teacher_map: Tensor) -> None:
        logits, student_map = forward_with_map(self.student, images)
        if has_target(teacher_map, student_map):
            target = feature_target(teacher_map, student_map).double()
            error = (student_map.double() - target).square()
            self.sums.append(torch.stack([error.sum((1, 2, 3)), target.square().sum((1, 2, 3))], dim=1))
        self.predictions.append(logits.argmax(1))
        self.evaluator.update(logits, labels)

    def result(self) -> FinalEvaluation:
        relative = None
        if self.sums:
            error, energy = self.world.gather(torch.cat(self.sums)).sum(0)
            relative = (error / energy).item()
        accuracy = self.evaluator.compute(distributed=self.world.size > 1)
        return FinalEvaluation(
            metrics={**accuracy, "relative_feature_error": relative},
            predictions=self.world.gather(torch.cat(self.predictions)).cpu().numpy(),
        )
