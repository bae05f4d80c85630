"""Maps of student and teacher, made comparable: tokens, grids, widths, and the target of a narrower student."""

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
    """Whether `feature_target` has a target: the grids are equal, and the student is not wider than its teacher."""
    return teacher_map.shape[2:] == student_map.shape[2:] and student_map.shape[1] <= teacher_map.shape[1]


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
    if student_map.shape[1] > teacher_map.shape[1]:
        raise UserError(
            f"the teacher is narrower ({teacher_map.shape[1]} channels) than the student's last block "
            f"({student_map.shape[1]}); lower the student's width, take a wider teacher, or train without a feature "
            "loss"
        )


def tokens_of(token_map: Tensor) -> Tensor:
    """A map [images, channels, rows, columns] as tokens [images, rows · columns, channels], in float32."""
    return token_map.flatten(2).transpose(1, 2).float()


def token_cosines(token_map: Tensor) -> Tensor:
    """Cosines of all pairs of an image's tokens, [images, tokens, tokens]."""
    unit = F.normalize(tokens_of(token_map), dim=-1)
    return unit @ unit.transpose(1, 2)
