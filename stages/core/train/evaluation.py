"""Accuracy of a model on the validation images."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World


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
        metrics: loss, top1 and top5 in percent; of students more, where None is what cannot be measured.
        predictions: the predicted class of each image, [images]; None where they are not kept.
    """

    metrics: Mapping[str, float | None]
    predictions: np.ndarray | None = None
