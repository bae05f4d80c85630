"""timm's training tasks: the one of labels alone, and the model within any of them."""

import torch
from timm.task import ClassificationTask, TrainingTask
from timm.utils import unwrap_model
from torch import nn


def labels_task(model: nn.Module, label_smoothing: float, device: torch.device) -> TrainingTask:
    """Training on the labels alone."""
    smoothing = {"smoothing": label_smoothing}
    return ClassificationTask(model, device=device, criterion_kwargs=smoothing, verbose=False)


def bare_model(task: TrainingTask, *, ema: bool = False) -> nn.Module:
    """The timm model that a task trains, or with `ema` its averaged copy, without the wrappers that timm adds.

    timm's tasks give the averaged weights inside a ModelEmaV3, which cannot be saved as a timm model.
    """
    return unwrap_model(task.get_eval_model(ema=ema))
