"""A student that starts from its teacher's weights: every second block of them, or every n-th."""

import re
from typing import Any

import torch

from stages.core.base.errors import UserError

BLOCK = re.compile(r"^blocks\.(\d+)\.")  # not CaiT's blocks_token_only, which are copied as they are


@torch.no_grad()
def copy_blocks(student: Any, teacher: Any) -> list[int]:
    """Copy a teacher's weights into a student of the same architecture and fewer blocks.

    Block i of the student gets the teacher's block i · n (0, 2, 4, … for half the depth), and everything else (patch
    embedding, position embedding, class token, class-attention blocks, norm, head) is copied as it is.

    Args:
        student: a timm model with `blocks`, changed in place.
        teacher: of the same architecture and width, with n times as many blocks.

    Returns:
        The teacher's blocks that were copied, 0, n, 2n, …

    Raises:
        UserError: the teacher is of another class, has no `blocks`, or not a multiple of the student's; or a weight has
            another name or shape.
    """
    if type(student) is not type(teacher):
        raise UserError(
            f"a {type(student).__name__} cannot start from the blocks of a {type(teacher).__name__}; give the strategy "
            "the teacher's architecture, or remove copies_teacher"
        )
    if not hasattr(student, "blocks"):
        raise UserError(f"a {type(student).__name__} has no `blocks` to copy every second of; remove copies_teacher")
    own, available = len(student.blocks), len(teacher.blocks)
    step, rest = divmod(available, own)
    if rest or not step:
        raise UserError(
            f"the teacher's {available} blocks are not a multiple of the student's {own}; set depth_divisor to a "
            f"divisor of {available}"
        )
    weights, target = teacher.state_dict(), student.state_dict()
    for name, value in target.items():
        source = BLOCK.sub(lambda found: f"blocks.{int(found[1]) * step}.", name, count=1)
        if source not in weights or weights[source].shape != value.shape:
            shape = tuple(weights[source].shape) if source in weights else "missing"
            raise UserError(
                f"the student's {name} {tuple(value.shape)} cannot be copied from the teacher's {source} ({shape}); "
                "give both the same width, heads, patches and classes"
            )
        value.copy_(weights[source])
    return list(range(0, available, step))
