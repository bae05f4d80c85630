"""`batch_normalized_mse`: the mean squared error of batch-normalised tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.losses.targets import tokens_of
from stages.core.runtime.distributed import mean_over_processes

WHOLE_BATCH = True


def loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean (BN(S) − BN(T))²; BN normalises each channel over all tokens of the global batch, as in training mode.

    What the code of "Distillation Dynamics" (2025-11) computes behind its projector, which stays at its initialisation.
    """
    student, teacher = (_batch_normalized(tokens_of(one).flatten(0, 1)) for one in (student_map, teacher_map))
    return F.mse_loss(student, teacher)


def _batch_normalized(tokens: Tensor) -> Tensor:
    """Tokens [tokens, channels], each channel with mean 0 and variance 1 over the tokens of all processes."""
    centred = tokens - mean_over_processes(tokens.mean(0))
    variance = mean_over_processes(centred.square().mean(0))
    return centred * torch.rsqrt(variance + 1e-5)  # torch's BatchNorm adds as much
