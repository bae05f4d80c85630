"""Loss functions: soft labels (KL divergence), and feature losses between last-block maps (MSE, spectral)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.base.errors import UserError


def feature_target(teacher_map: Tensor, student_map: Tensor) -> Tensor:
    """The target of a feature loss: the teacher's map at the student's width.

    If the student is narrower, the teacher's channels are average-pooled to the student's width: the naive feature
    distillation that the paper shows to fail.

    Args:
        teacher_map: [images, teacher channels, rows, columns].
        student_map: [images, student channels, rows, columns].

    Returns:
        [images, student channels, rows, columns].

    Raises:
        UserError: the grids differ, or the teacher is narrower than the student.
    """
    check_grids(teacher_map, student_map)
    check_width(teacher_map, student_map)
    return pool_channels(teacher_map, student_map.shape[1])


def pool_channels(features: Tensor, width: int) -> Tensor:
    """Adaptive average pooling of a map's channels, [images, channels, rows, columns] to [images, width, …]."""
    if features.shape[1] == width:
        return features
    tokens = features.flatten(2).transpose(1, 2)  # [images, tokens, channels]
    pooled = F.adaptive_avg_pool1d(tokens, width)
    return pooled.transpose(1, 2).unflatten(2, features.shape[2:])


def has_target(teacher_map: Tensor, student_map: Tensor) -> bool:
    """Whether `feature_target` has a target for maps of one grid; a student wider than its teacher has none."""
    return student_map.shape[1] <= teacher_map.shape[1]


def check_grids(teacher_map: Tensor, student_map: Tensor) -> None:
    """Check that two maps have the same token grid.

    Raises:
        UserError: they do not; the text names both grids.
    """
    teacher_grid, student_grid = tuple(teacher_map.shape[2:]), tuple(student_map.shape[2:])
    if teacher_grid != student_grid:
        raise UserError(
            f"the teacher's token grid {teacher_grid} differs from the student's {student_grid}; "
            "give both the same image and patch size"
        )


def check_width(teacher_map: Tensor, student_map: Tensor) -> None:
    """Check that a student's map is not wider than its teacher's.

    Raises:
        UserError: it is; the text names both widths.
    """
    if not has_target(teacher_map, student_map):
        raise UserError(
            f"the teacher is narrower ({teacher_map.shape[1]} channels) than the student's last block "
            f"({student_map.shape[1]}); lower the student's width, take a wider teacher, or train without a feature "
            "loss"
        )


def mse_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all values of two maps [images, channels, rows, columns]."""
    return F.mse_loss(student_map.float(), target.float())


def spectral_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """SpectralKD: mean squared error between the real and imaginary parts of rfft2 over rows and columns.

    Orthonormal, in float32 (rfft2 does not accept bfloat16). By Parseval's theorem it differs from `mse_loss` only in
    the weights of the half spectrum and in the number of values that the mean divides by.
    """
    difference = torch.fft.rfft2(student_map.float() - target.float(), norm="ortho")
    return torch.view_as_real(difference).square().mean()


FEATURE_LOSSES = {"mse": mse_loss, "spectral": spectral_loss}


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """τ²·KL(teacher ‖ student) of softmax(logits / τ), summed over classes and averaged over images."""
    student_log = F.log_softmax(logits.float() / tau, dim=-1)
    teacher_log = F.log_softmax(teacher_logits.float() / tau, dim=-1)
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * tau**2
