"""How a model's weights are optimised: AdamW, its parameter groups, and the schedule of its learning rate."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from timm.utils import unwrap_model

from stages.core.train.tasks import bare_model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Optimization:
    """What the optimizer does, the same for every model that is trained on the same batches.

    Attributes:
        epochs: passes over the training images.
        lr: peak learning rate, reached after `warmup_epochs` from `warmup_lr`, on a cosine that falls to `min_lr`.
        weight_decay: of weight matrices; biases, norms and embeddings are not decayed.
        clip_grad: the largest gradient norm, or None for no limit.
        precision: "float32", or "bfloat16" under autocast.
        ema_decay: decay of the averaged weights, which are evaluated beside the raw ones; None for no average.
        schedule: "step" sets the learning rate before every step; "epoch" sets it after each epoch for the next, as
            timm's scripts do, so that epoch n trains at the schedule's value for n − 1.
        ema_start: "first_step" starts the averaged weights from those after the first step, "initial" from those
            before it.
    """

    epochs: int
    lr: float
    weight_decay: float
    warmup_epochs: int
    warmup_lr: float
    min_lr: float
    clip_grad: float | None
    precision: str
    ema_decay: float | None
    schedule: str = "step"
    ema_start: str = "first_step"

    def optimizer(self, task: TrainingTask, *, decay_embeddings: bool) -> torch.optim.Optimizer:
        """AdamW for what a task trains; position embedding and class token are decayed if `decay_embeddings`."""
        return create_optimizer_v2(
            parameter_groups(task, self.weight_decay, decay_embeddings=decay_embeddings),
            opt="adamw",
            lr=self.lr,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        """timm's cosine schedule of an optimizer, at `steps` of them an epoch."""
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.warmup_lr,
            min_lr=self.min_lr,
            step_on_epochs=self.schedule == "epoch",
            updates_per_epoch=steps,
        )
        return scheduler

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(device.type, PRECISIONS[self.precision], enabled=self.precision != "float32")


def parameter_groups(task: TrainingTask, weight_decay: float, *, decay_embeddings: bool) -> list[dict[str, Any]]:
    """A student's parameters without and with weight decay, then likewise those of what is trained beside it.

    Biases and norms are not decayed, and the position embedding and the class token only with `decay_embeddings`.
    """
    student = bare_model(task)
    spared: Collection[str] = () if decay_embeddings else getattr(student, "no_weight_decay", set)()
    groups = list(param_groups_weight_decay(student, weight_decay, no_weight_decay_list=spared))
    projectors = getattr(unwrap_model(task.get_trainable_module()), "projectors", None)
    if projectors is not None:
        groups += [group for group in param_groups_weight_decay(projectors, weight_decay) if group["params"]]
    return groups
