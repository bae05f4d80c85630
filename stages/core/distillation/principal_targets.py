"""A teacher's map along the leading directions that its tokens share, as many as the student has channels.

Averages over neighbouring channels, the target of a narrower student otherwise, keep little of a teacher's energy; of
all maps of so few channels these keep the most (Eckart–Young). The directions are those of the dataset PCA:
eigenvectors of the tokens' second moment, not centred. A student as wide as its teacher is compared with the whole
map, rotated.
"""

from collections.abc import Callable, Sequence

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from stages.core.distillation.task import MapDistillationTask
from stages.core.models.maps import block_index

Moments = tuple[Tensor, Tensor]  # the mean [channels] and the covariance [channels, channels] of a teacher's tokens


class PrincipalTarget(nn.Module):
    """A teacher's map along given directions, orthonormal rows [directions, channels]."""

    directions: Tensor

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)

    def forward(self, teacher_map: Tensor) -> Tensor:
        """[images, channels, rows, columns] to [images, directions, rows, columns]."""
        return (teacher_map.movedim(1, -1) @ self.directions.T).movedim(-1, 1)


def leading_directions(moments: Moments, count: int) -> Tensor:
    """The eigenvectors of the second moment with the largest eigenvalues, rows [count, channels], in float64.

    The signs of eigenvectors are arbitrary: the largest entry of each is positive.
    """
    mean, covariance = moments
    _, vectors = torch.linalg.eigh(covariance + mean.outer(mean))
    leading = vectors.flip(1)[:, :count].T
    return leading * leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()


def match_leading_directions(
    tasks: Sequence[MapDistillationTask], moments: Callable[[MapDistillationTask, int], Moments]
) -> None:
    """Let tasks of one teacher compare their students with its leading directions.

    Args:
        tasks: each compares some blocks.
        moments: of the teacher's tokens at a position among a task's blocks; asked once for each block, whatever the
            number of tasks.
    """
    known: dict[str, Moments] = {}
    for task in tasks:
        compared = unwrap_model(task.trainable_module)
        for position, block in enumerate(compared.blocks):
            if block not in known:
                known[block] = moments(task, position)
            width = compared.model.feature_info[block_index(compared.model, block)]["num_chs"]
            directions = leading_directions(known[block], width)
            compared.targets[position] = PrincipalTarget(directions.float()).to(task.device)
