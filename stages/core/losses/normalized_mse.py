"""`normalized_mse`: the mean squared error to tokens of one norm."""

import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import tokens_of


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean (S − LN(T))²; LN is a LayerNorm over the channels of each token, without scale and shift.

    The target of feature distillation after masked image modelling (Wei et al., 2022). It gives every token one norm,
    as Lift's own LayerNorm does to the student's.
    """
    teacher = tokens_of(teacher_map)
    return F.mse_loss(tokens_of(student_map), F.layer_norm(teacher, teacher.shape[-1:]))
