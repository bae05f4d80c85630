"""Loss functions: soft labels, and the feature losses between patch-token maps.

A feature loss takes a student's and a teacher's map, both [images, channels, rows, columns], and gives one number,
computed in float32. In the formulas S and T are their tokens, [images, tokens, channels]. A function NAME_loss that
`feature_loss` marks is what `feature: NAME` means in an objective's definition.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.base.errors import UserError
from stages.core.config.feature_losses import SUFFIX
from stages.core.runtime.distributed import mean_over_processes

LossFunction = Callable[[Tensor, Tensor], Tensor]
RELATION_TEMPERATURE = 0.07  # of LightlyTrain's distillation, version 3


class FeatureLoss(NamedTuple):
    """A feature loss as a task uses it.

    Attributes:
        function: of a student's and a teacher's map.
        any_width: it compares maps of any two widths; otherwise it compares channel by channel.
        whole_batch: it depends on all images of the global batch together, which must not come in pieces.
    """

    function: LossFunction
    any_width: bool
    whole_batch: bool


FEATURE_LOSSES: dict[str, FeatureLoss] = {}


def feature_loss(*, any_width: bool = False, whole_batch: bool = False) -> Callable[[LossFunction], LossFunction]:
    """Make a function NAME_loss known as the feature loss NAME; for the options see `FeatureLoss`.

    Checks of params read the decorator's options from this file (`stages.core.config.feature_losses`): write them out.
    """

    def mark(function: LossFunction) -> LossFunction:
        FEATURE_LOSSES[function.__name__.removesuffix(SUFFIX)] = FeatureLoss(function, any_width, whole_batch)
        return function

    return mark


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


def tokens_of(token_map: Tensor) -> Tensor:
    """A map [images, channels, rows, columns] as tokens [images, rows · columns, channels], in float32."""
    return token_map.flatten(2).transpose(1, 2).float()


@feature_loss()
def mse_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """mean (S − T)², over all values."""
    return F.mse_loss(student_map.float(), target.float())


@feature_loss()
def spectral_loss(student_map: Tensor, target: Tensor) -> Tensor:
    """SpectralKD: mean squared error between the real and imaginary parts of rfft2 over rows and columns.

    Orthonormal, in float32 (rfft2 does not accept bfloat16). By Parseval's theorem it differs from `mse_loss` only in
    the weights of the half spectrum and in the number of values that the mean divides by.
    """
    difference = torch.fft.rfft2(student_map.float() - target.float(), norm="ortho")
    return torch.view_as_real(difference).square().mean()


@feature_loss()
def normalized_mse_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean (S − LN(T))²; LN is a LayerNorm over the channels of each token, without scale and shift.

    The target of feature distillation after masked image modelling (Wei et al., 2022). It gives every token one norm,
    as Lift's own LayerNorm does to the student's.
    """
    teacher = tokens_of(teacher_map)
    return F.mse_loss(tokens_of(student_map), F.layer_norm(teacher, teacher.shape[-1:]))


@feature_loss(whole_batch=True)
def batch_normalized_mse_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
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


@feature_loss()
def pooled_smooth_l1_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Smooth L1 of (mean over tokens of S) − LN(mean over tokens of T), LN as in `normalized_mse_loss`.

    VkD (Miles, Elezi and Deng, CVPR 2024), which reads the student through an orthogonal projector.
    """
    teacher = tokens_of(teacher_map).mean(1)
    return F.smooth_l1_loss(tokens_of(student_map).mean(1), F.layer_norm(teacher, teacher.shape[-1:]))


@feature_loss()
def l1_cosine_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean |S − T| − mean over tokens of log σ(cos(S, T)).

    Lillama (low-rank feature distillation of language models, 2024-12).
    """
    student, teacher = tokens_of(student_map), tokens_of(teacher_map)
    cosines = F.cosine_similarity(student, teacher, dim=-1)
    return F.l1_loss(student, teacher) - F.logsigmoid(cosines).mean()


@feature_loss(any_width=True)
def gram_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """mean (S Sᵀ − T Tᵀ)² over all pairs of an image's tokens, each scaled to unit length.

    DINOv3's Gram loss. The matrices are [tokens, tokens]: it depends on neither width nor basis.
    """
    return F.mse_loss(_cosines(student_map), _cosines(teacher_map))


@feature_loss(any_width=True)
def relation_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """KL(softmax(T Tᵀ / τ) ‖ softmax(S Sᵀ / τ)) by rows, tokens scaled to unit length; the mean over rows and images.

    LightlyTrain's distillation, version 3, with its τ of 0.07. It depends on neither width nor basis.
    """
    student, teacher = (
        F.log_softmax(_cosines(one) / RELATION_TEMPERATURE, dim=-1).flatten(0, 1) for one in (student_map, teacher_map)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _cosines(token_map: Tensor) -> Tensor:
    """Cosines of all pairs of an image's tokens, [images, tokens, tokens]."""
    unit = F.normalize(tokens_of(token_map), dim=-1)
    return unit @ unit.transpose(1, 2)


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, tau: float) -> Tensor:
    """τ²·KL(teacher ‖ student) of softmax(logits / τ), summed over classes and averaged over images."""
    student_log = F.log_softmax(logits.float() / tau, dim=-1)
    teacher_log = F.log_softmax(teacher_logits.float() / tau, dim=-1)
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * tau**2
