"""How a recipe optimises a model's weights: AdamW, its parameter groups, and the schedule of its learning rate."""

from collections.abc import Collection
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from timm.utils import unwrap_model

from stages.core.config.schema import Recipe
from stages.core.train.tasks import bare_model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def optimizer(recipe: Recipe, task: TrainingTask) -> torch.optim.Optimizer:
    """AdamW for what a task trains."""
    return create_optimizer_v2(
        parameter_groups(recipe, task), opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )


def parameter_groups(recipe: Recipe, task: TrainingTask) -> list[dict[str, Any]]:
    """A student's parameters without and with weight decay, then likewise those of what is trained beside it.

    Biases and norms are not decayed; for position embedding and class token see `Recipe.decay_embeddings`.
    """
    student = bare_model(task)
    decays_all = recipe.decay_embeddings == "lift_and_widen" and getattr(student, "decays_all_in_release", False)
    spared: Collection[str] = () if decays_all else getattr(student, "no_weight_decay", set)()
    groups = list(param_groups_weight_decay(student, recipe.weight_decay, no_weight_decay_list=spared))
    projectors = getattr(unwrap_model(task.get_trainable_module()), "projectors", None)
    if projectors is not None:
        groups += [group for group in param_groups_weight_decay(projectors, recipe.weight_decay) if group["params"]]
    return groups


def scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """timm's cosine schedule of an optimizer, at `steps` of them an epoch."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.warmup_lr,
        min_lr=recipe.min_lr,
        step_on_epochs=recipe.schedule == "epoch",
        updates_per_epoch=steps,
    )
    return scheduler


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The context of a forward pass."""
    return torch.autocast(device.type, PRECISIONS[recipe.precision], enabled=recipe.precision != "float32")
