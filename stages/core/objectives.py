"""What a student is trained on: cross-entropy, soft labels, and its feature map against the teacher's.

L = (1 - α)·CE + α·τ²·KL(teacher ‖ student) + w·L_feature

with the student's and the teacher's last-block patch-token maps in L_feature. Built on `timm.task`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.task import ClassificationTask, DistillationTeacher, LogitDistillationTask, TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn

from stages.core.errors import UserError
from stages.core.students import forward_with_map


def feature_target(teacher_map: Tensor, student_map: Tensor) -> Tensor:
    """What a student's map is compared with: the teacher's map at the student's width.

    Where the student is narrower, the teacher's channels are average-pooled to the student's width: the
    naive feature distillation that the paper shows to fail.

    Args:
        teacher_map: [images, teacher channels, rows, columns].
        student_map: [images, student channels, rows, columns].

    Returns:
        [images, student channels, rows, columns].

    Raises:
        UserError: the grids differ, or the teacher is narrower than the student.
    """
    _check_grids(teacher_map, student_map)
    _check_width(teacher_map, student_map)
    width = student_map.shape[1]
    if teacher_map.shape[1] == width:
        return teacher_map
    tokens = teacher_map.flatten(2).transpose(1, 2)  # [images, tokens, teacher channels]
    pooled = F.adaptive_avg_pool1d(tokens, width)
    return pooled.transpose(1, 2).unflatten(2, teacher_map.shape[2:])


def has_target(teacher_map: Tensor, student_map: Tensor) -> bool:
    """Whether `feature_target` gives maps on one grid a target: a student wider than its teacher has none."""
    return student_map.shape[1] <= teacher_map.shape[1]


def _check_grids(teacher_map: Tensor, student_map: Tensor) -> None:
    teacher_grid, student_grid = tuple(teacher_map.shape[2:]), tuple(student_map.shape[2:])
    if teacher_grid != student_grid:
        raise UserError(
            f"the teacher's token grid {teacher_grid} differs from the student's {student_grid}; "
            "give both the same image and patch size"
        )


def _check_width(teacher_map: Tensor, student_map: Tensor) -> None:
    if not has_target(teacher_map, student_map):
        raise UserError(
            f"the teacher is narrower ({teacher_map.shape[1]} channels) than the student's last block "
            f"({student_map.shape[1]}); lower the student's width, take a wider teacher, or train without a feature "
            "loss"
        )


@torch.no_grad()
def check_compatible(student: nn.Module, teacher: nn.Module, image_size: int, *, feature: bool) -> None:
    """Refuse, before any training, a student whose map or logits cannot be compared with the teacher's.

    Args:
        student, teacher: timm models on one device.
        image_size: of their input.
        feature: whether there is a feature loss; without one a student may be wider than its teacher.

    Raises:
        UserError: grids or classes differ, or there is a feature loss and the teacher is narrower than the student.
    """
    outputs = []
    for model in (teacher, student):
        blank = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
        outputs.append(forward_with_map(model.eval(), blank))
    (teacher_logits, teacher_map), (student_logits, student_map) = outputs
    if teacher_logits.shape != student_logits.shape:
        raise UserError(
            f"the teacher tells {teacher_logits.shape[1]} classes apart, the student {student_logits.shape[1]}; "
            "fit both on one dataset"
        )
    _check_grids(teacher_map, student_map)
    if feature:
        _check_width(teacher_map, student_map)


def mse_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all values of two maps [images, channels, rows, columns]."""
    return F.mse_loss(student_map.float(), target.float())


def spectral_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """SpectralKD: mean squared error between the real and imaginary parts of rfft2 over rows and columns.

    Orthonormal, in float32 (rfft2 takes no bfloat16). By Parseval it differs from `mse_loss` only in the
    weights of the half spectrum and in the number of values that the mean divides by.
    """
    difference = torch.fft.rfft2(student_map.float() - target.float(), norm="ortho")
    return torch.view_as_real(difference).square().mean()


FEATURE_LOSSES = {"mse": mse_loss, "spectral": spectral_loss}


def renormalization(student: nn.Module, teacher: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from images normalised for the student to the same images normalised for the teacher.

    timm's DistillationTeacher has one too, which compares tensors at every call and so waits for the device.
    """
    (mean, std), (teacher_mean, teacher_std) = (
        [torch.tensor(model.pretrained_cfg[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std")]  # type: ignore[index]
        for model in (student, teacher)
    )
    if torch.equal(mean, teacher_mean) and torch.equal(std, teacher_std):
        return lambda images: images
    scale, shift = std / teacher_std, (mean - teacher_mean) / teacher_std
    return lambda images: images * scale + shift


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
        student: a timm model that `forward_with_map` takes, on `device`.
        teacher: likewise; it is frozen, and runs in `teacher_dtype`.
        alpha: weight of the soft labels; 1 - alpha is the cross-entropy's.
        tau: softmax temperature of both.
        feature: a key of FEATURE_LOSSES, or None.
        feature_weight: its weight.
        teacher_dtype: of the teacher's weights and activations.
        kwargs: as for timm's LogitDistillationTask.
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
        **kwargs: Any,
    ) -> None:
        frozen = copy.deepcopy(teacher).requires_grad_(False).to(teacher_dtype)  # the caller's stays as it is
        wrapped = DistillationTeacher(frozen, device=device)
        super().__init__(student, wrapped, task_loss_weight=1 - alpha, temperature=tau, device=device, **kwargs)
        wrapped.model = WithMap(frozen)
        self.renormalize = renormalization(student, frozen, device)
        self.trainable_module = WithMap(student)
        self.teacher_dtype = teacher_dtype
        self.feature_loss = FEATURE_LOSSES[feature] if feature else None
        self.feature_weight = feature_weight

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The bare student, whose forward pass gives logits alone."""
        resolved = super().get_eval_model(module=module, ema=ema)
        return None if resolved is None else getattr(unwrap_model(resolved), "model", resolved)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The loss of one batch and its parts.

        Args:
            input: [images, 3, height, width], normalised for the student.
            target: labels [images].
        """
        with torch.inference_mode(), torch.autocast(input.device.type, enabled=False):
            taught = self.teacher(self.renormalize(input).to(self.teacher_dtype))
        # Copies, since the backward pass takes no tensor of inference mode; pooling must not round again.
        teacher_logits, teacher_map = (output.to(torch.float32, copy=True) for output in taught)
        logits, student_map = self.trainable_module(input)
        parts = {"task_loss": self.criterion(logits, target)}
        loss = self.task_loss_weight * parts["task_loss"]
        if self.feature_loss is not None:
            parts["feature_loss"] = self.feature_loss(student_map, feature_target(teacher_map, student_map))
            loss = loss + self.feature_weight * parts["feature_loss"]
        if self.distill_loss_weight:
            parts["kd_loss"] = soft_label_loss(logits, teacher_logits, self.temperature)
            loss = loss + self.distill_loss_weight * parts["kd_loss"]
        return {"loss": loss, "output": logits, **parts}


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """τ²·KL(teacher ‖ student) of softmax(logits / τ), summed over classes and averaged over images."""
    student_log = F.log_softmax(logits.float() / tau, dim=-1)
    teacher_log = F.log_softmax(teacher_logits.float() / tau, dim=-1)
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * tau**2


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
    teacher_dtype: torch.dtype = torch.float32,
) -> TrainingTask:
    """The timm training task of an objective; only the student's parameters are trained.

    Args:
        student: the model to train, on `device`.
        teacher: the model to distil from, on `device`, which is copied; None trains on the labels alone.
        alpha, tau, feature, feature_weight: see the module; `feature` is a key of FEATURE_LOSSES or None.
        label_smoothing: of the cross-entropy.
        device: where both models are.
        teacher_dtype: in which the teacher computes.
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
        teacher_dtype=teacher_dtype,
        device=device,
        **criterion,
    )
