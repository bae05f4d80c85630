"""A student's objective: cross-entropy, soft labels, and its feature map against the teacher's.

L = (1 - α)·CE + α·τ²·KL(teacher ‖ student) + w·L_feature

L_feature compares the last-block patch-token maps of student and teacher. Built on `timm.task`.
"""

import copy
from typing import Any

import torch
from timm.task import ClassificationTask, DistillationTeacher, LogitDistillationTask, TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.models.normalization import check_preprocessing, renormalization
from stages.core.models.students import forward_with_map
from stages.core.train.losses import (
    FEATURE_LOSSES,
    check_grids,
    check_width,
    feature_target,
    pool_channels,
    soft_label_loss,
)


@torch.no_grad()
def check_compatible(student: nn.Module, teacher: nn.Module, image_size: int, *, feature: bool) -> None:
    """Check, before any training, that a student's logits and map can be compared with the teacher's.

    Args:
        student, teacher: timm models on one device.
        image_size: height and width of their input.
        feature: whether there is a feature loss that refuses a student wider than its teacher.

    Raises:
        UserError: the teacher does not take the student's images, grids or classes differ, or there is such a loss and
            the teacher is narrower than the student.
    """
    check_preprocessing(teacher, image_size)
    outputs = []
    for model in (teacher, student):
        blank = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
        outputs.append(forward_with_map(model.eval(), blank))
    (teacher_logits, teacher_map), (student_logits, student_map) = outputs
    if teacher_logits.shape != student_logits.shape:
        raise UserError(
            f"the teacher has {teacher_logits.shape[1]} classes, the student {student_logits.shape[1]}; "
            "fit both on one dataset"
        )
    check_grids(teacher_map, student_map)
    if feature:
        check_width(teacher_map, student_map)


class WithMap(nn.Module):
    """A model whose forward pass gives logits and last-block map at once, so that DDP and compile see one call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [images, classes] and map [images, channels, rows, columns]."""
        return forward_with_map(self.model, images)


class MapDistillationTask(LogitDistillationTask):
    """Distil a teacher's soft labels, its last-block map, or both, in one pass of each model.

    Args:
        student: a timm model that `forward_with_map` accepts, on `device`.
        teacher: the same; a frozen copy of it is used.
        alpha: weight of the soft labels; the cross-entropy has weight 1 - alpha.
        tau: softmax temperature of both models.
        feature: a key of FEATURE_LOSSES, or None.
        feature_weight: weight of the feature loss.
        wider: "pool" averages the channels of a student wider than its teacher for the feature loss; "refuse" does not.
        teacher_dtype: type of the teacher's weights and of its input.
        teacher_autocast: type of its matrix products under autocast; None to do without.
        kwargs: see timm's LogitDistillationTask.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        alpha: float,
        tau: float,
        feature: str | None,
        feature_weight: float,
        teacher_dtype: torch.dtype,
        device: torch.device,
        wider: str = "refuse",
        teacher_autocast: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        frozen = copy.deepcopy(teacher).requires_grad_(False).to(teacher_dtype)  # the caller's model is left unchanged
        wrapped = DistillationTeacher(frozen, device=device)
        super().__init__(student, wrapped, task_loss_weight=1 - alpha, temperature=tau, device=device, **kwargs)
        wrapped.model = WithMap(frozen)
        self.renormalize = renormalization(student, frozen, device)
        self.trainable_module = WithMap(student)
        self.teacher_dtype, self.teacher_autocast = teacher_dtype, teacher_autocast
        self.pool_wider = wider == "pool"
        self.feature_loss = FEATURE_LOSSES[feature] if feature else None
        self.feature_weight = feature_weight

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The bare student, whose forward pass gives logits alone."""
        resolved = super().get_eval_model(module=module, ema=ema)
        return None if resolved is None else getattr(unwrap_model(resolved), "model", resolved)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The loss of one batch, its parts and the logits.

        Args:
            input: images [images, 3, height, width], normalised for the student.
            target: labels [images].
        """
        device, autocast = input.device.type, self.teacher_autocast
        with torch.inference_mode(), torch.autocast(device, autocast, enabled=autocast is not None):
            teacher_output = self.teacher(self.renormalize(input).to(self.teacher_dtype))
        # Copies, because the backward pass does not accept tensors of inference mode; in float32, so that pooling does
        # not round again.
        teacher_logits, teacher_map = (output.to(torch.float32, copy=True) for output in teacher_output)
        logits, student_map = self.trainable_module(input)
        parts = {"task_loss": self.criterion(logits, target)}
        loss = self.task_loss_weight * parts["task_loss"]
        if self.feature_loss is not None:
            if self.pool_wider and student_map.shape[1] > teacher_map.shape[1]:
                student_map = pool_channels(student_map, teacher_map.shape[1])
            parts["feature_loss"] = self.feature_loss(student_map, feature_target(teacher_map, student_map))
            loss = loss + self.feature_weight * parts["feature_loss"]
        if self.distill_loss_weight:
            parts["kd_loss"] = soft_label_loss(logits, teacher_logits, self.temperature)
            loss = loss + self.distill_loss_weight * parts["kd_loss"]
        return {"loss": loss, "output": logits, **parts}


def bare_model(task: TrainingTask, *, ema: bool = False) -> nn.Module:
    """The timm model that a task trains, or with `ema` its averaged copy, without the wrappers that timm adds.

    timm's tasks give the averaged weights inside a ModelEmaV3, which cannot be saved as a timm model.
    """
    return unwrap_model(task.get_eval_model(ema=ema))


def create_task(
    student: nn.Module,
    teacher: nn.Module | None,
    *,
    alpha: float,
    tau: float,
    feature: str | None,
    feature_weight: float,
    label_smoothing: float,
    device: torch.device,
    wider: str = "refuse",
    teacher_dtype: torch.dtype = torch.float32,
    teacher_autocast: torch.dtype | None = None,
) -> TrainingTask:
    """Make the timm training task of an objective; only the student's parameters are trained.

    Args:
        student: the model to train, on `device`.
        teacher: the model to distil from, on `device`, which is copied; None to train on the labels alone.
        alpha, tau, feature, feature_weight: α, τ, L_feature and w of the module's formula; `feature` is a key of
            FEATURE_LOSSES or None.
        label_smoothing: of the cross-entropy.
        device: of both models.
        wider, teacher_dtype, teacher_autocast: see `MapDistillationTask`.
    """
    criterion: dict[str, Any] = {"criterion_kwargs": {"smoothing": label_smoothing}, "verbose": False}
    if teacher is None or (alpha == 0 and feature is None):
        return ClassificationTask(student, device=device, **criterion)
    return MapDistillationTask(
        student,
        teacher,
        alpha=alpha,
        tau=tau,
        feature=feature,
        feature_weight=feature_weight,
        wider=wider,
        teacher_dtype=teacher_dtype,
        teacher_autocast=teacher_autocast,
        device=device,
        **criterion,
    )
