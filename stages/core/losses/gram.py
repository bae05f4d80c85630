"""`gram`: the cosines of an image's tokens with one another (DINOv3)."""

import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import token_cosines

ANY_WIDTH = True


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean (S Sᵀ − T Tᵀ)² over all pairs of an image's tokens, each scaled to unit length.

    DINOv3's Gram loss. The matrices are [tokens, tokens]: it depends on neither width nor basis.
    """
    return F.mse_loss(token_cosines(student_map), token_cosines(teacher_map))
