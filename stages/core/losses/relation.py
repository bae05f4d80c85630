"""`relation`: the relations of an image's tokens as distributions (LightlyTrain)."""

import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import token_cosines

ANY_WIDTH = True
TEMPERATURE = 0.07  # of LightlyTrain's distillation, version 3


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """KL(softmax(T Tᵀ / τ) ‖ softmax(S Sᵀ / τ)) by rows, tokens scaled to unit length; the mean over rows and images.

    LightlyTrain's distillation, version 3, with its τ of 0.07. It depends on neither width nor basis.
    """
    student, teacher = (
        F.log_softmax(token_cosines(one) / TEMPERATURE, dim=-1).flatten(0, 1) for one in (student_map, teacher_map)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
