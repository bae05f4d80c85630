"""Soft labels: the divergence of the student's class probabilities from the teacher's."""

import torch.nn.functional as F
from torch import Tensor


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """τ²·KL(teacher ‖ student) of softmax(logits / τ), summed over classes and averaged over images."""
    student_log = F.log_softmax(logits.float() / tau, dim=-1)
    teacher_log = F.log_softmax(teacher_logits.float() / tau, dim=-1)
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * tau**2
