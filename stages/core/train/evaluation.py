"""Accuracy of a model on the validation images, and the distance of its features from the teacher's."""

import math
from collections.abc import Iterable, Mapping
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


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World) -> dict[str, float]:
    """Cross-entropy (without smoothing), top-1 and top-5 accuracy in percent, over the batches of all processes."""
    model.eval()
    evaluator = ClassificationEvaluator(world.device)
    for images, labels in batches:
        evaluator.update(model(images.to(world.device)), labels.to(world.device))
    return dict(evaluator.compute(distributed=world.size > 1))


def check_finite(metrics: Mapping[str, float | None], moment: str) -> None:
    """Check that no metric is infinite or NaN.

    Args:
        metrics: by name; None is not checked.
        moment: when they were measured, for the message.

    Raises:
        UserError: the text names the metric.
    """
    for name, value in metrics.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name} is {value} {moment}; lower recipe.lr or set recipe.clip_grad")


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


@torch.no_grad()
def evaluate_against_teacher(
    student: nn.Module, teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World
) -> FinalEvaluation:
    """Accuracy of a student and the relative feature error ‖S - T‖² / ‖T‖² of its last-block map.

    S is the student's map, T the teacher's at the student's width (see `feature_target`); both norms are summed over
    the validation images of all processes.

    Raises:
        UserError: the grids of the two maps differ.
    """
    device = world.device
    student.eval()
    evaluator = ClassificationEvaluator(device)
    renormalize = renormalization(student, teacher, device)
    predictions, sums = [], []
    for images, labels in batches:
        images = images.to(device)
        logits, student_map = forward_with_map(student, images)
        _, teacher_map = forward_with_map(teacher, renormalize(images))
        if has_target(teacher_map, student_map):
            target = feature_target(teacher_map, student_map).double()
            error = (student_map.double() - target).square()
            sums.append(torch.stack([error.sum((1, 2, 3)), target.square().sum((1, 2, 3))], dim=1))
        predictions.append(logits.argmax(1))
        evaluator.update(logits, labels.to(device))
    relative = None
    if sums:
        error, energy = world.gather(torch.cat(sums)).sum(0)
        relative = (error / energy).item()
    accuracy = evaluator.compute(distributed=world.size > 1)
    return FinalEvaluation(
        metrics={**accuracy, "relative_feature_error": relative},
        predictions=world.gather(torch.cat(predictions)).cpu().numpy(),
    )
