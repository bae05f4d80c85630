"""What is trained beside a student and is no part of it: linear maps of its tokens to the teacher's width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from stages.core.base.errors import UserError


class MapProjector(nn.Module):
    """A linear layer on every token of a map."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, token_map: Tensor) -> Tensor:
        """[images, student channels, rows, columns] to [images, teacher channels, rows, columns]."""
        return self.linear(token_map.movedim(1, -1)).movedim(-1, 1)


def projector_widths(
    widths: Sequence[tuple[int, int]], kind: str | None, *, project_equal: bool
) -> list[tuple[int, int] | None]:
    """Which of several (student, teacher) widths are read through a projector; None for those that are not.

    Raises:
        UserError: an orthogonal projector would have fewer channels than the student.
    """
    chosen = [pair if kind is not None and (project_equal or pair[0] != pair[1]) else None for pair in widths]
    for pair in chosen:
        if kind == "orthogonal" and pair is not None and pair[0] > pair[1]:
            raise UserError(
                f"an orthogonal projector cannot map {pair[0]} channels of the student to {pair[1]} of the teacher; "
                "lower the student's width, take a wider teacher, or set the objective's projector to linear"
            )
    return chosen


def make_projectors(widths: Sequence[tuple[int, int] | None], kind: str | None, seed: int) -> nn.ModuleList:
    """A projector for each block that is compared; an identity where there is none.

    Args:
        widths: for each block, the student's and the teacher's channels, or None to do without a projector.
        kind: "linear" is trained, "frozen" keeps torch's random initialisation of a Linear layer, "orthogonal" is
            trained, has no bias and keeps orthonormal rows W Wᵀ = 1 (W [student channels, teacher channels]).
        seed: of the initialisation, which is the same in all processes.
    """
    projectors = nn.ModuleList()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pair in widths:
            if pair is None:
                projectors.append(nn.Identity())
                continue
            linear = nn.Linear(*pair, bias=kind != "orthogonal")
            if kind == "orthogonal":
                orthogonal(linear)
            projectors.append(MapProjector(linear).requires_grad_(kind != "frozen"))
    return projectors
