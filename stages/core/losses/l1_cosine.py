"""`l1_cosine`: the L1 distance and the angle of each token (Lillama)."""

import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import tokens_of


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean |S − T| − mean over tokens of log σ(cos(S, T)).

    Lillama (low-rank feature distillation of language models, 2024-12).
    """
    student, teacher = tokens_of(student_map), tokens_of(teacher_map)
    cosines = F.cosine_similarity(student, teacher, dim=-1)
    return F.l1_loss(student, teacher) - F.logsigmoid(cosines).mean()
