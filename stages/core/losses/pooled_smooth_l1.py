"""`pooled_smooth_l1`: the smooth L1 distance of mean tokens (VkD)."""

import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import tokens_of


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Smooth L1 of (mean over tokens of S) − LN(mean over tokens of T), LN as in `normalized_mse`.

    VkD (Miles, Elezi and Deng, CVPR 2024), which reads the student through an orthogonal projector.
    """
    teacher = tokens_of(teacher_map).mean(1)
    return F.smooth_l1_loss(tokens_of(student_map).mean(1), F.layer_norm(teacher, teacher.shape[-1:]))
