"""A student made of its teacher's blocks."""

import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.models.copying import copy_blocks


def test_every_second_block_and_all_else_is_the_teachers(make_teacher, images):
    teacher, student = make_teacher(depth=6), make_teacher(depth=3)
    torch.nn.init.normal_(student.head.weight)
    assert copy_blocks(student, teacher) == [0, 2, 4]
    kept = [teacher.blocks[index] for index in (0, 2, 4)]
    teacher.blocks = torch.nn.Sequential(*kept)
    with torch.no_grad():
        assert torch.equal(student(images), teacher(images))


def test_a_students_later_training_leaves_the_teacher_alone(make_teacher):
    teacher, student = make_teacher(depth=4), make_teacher(depth=2)
    before = teacher.pos_embed.clone()
    copy_blocks(student, teacher)
    with torch.no_grad():
        student.pos_embed.add_(1)
    assert torch.equal(teacher.pos_embed, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 4}, "6 blocks are not a multiple of the student's 4"),
        ({"depth": 3, "embed_dim": 48}, r"cls_token \(1, 1, 48\) cannot be copied from the teacher's cls_token"),
    ],
)
def test_another_shape_is_one_line(make_teacher, arguments, message):
    with pytest.raises(UserError, match=message):
        copy_blocks(make_teacher(**arguments), make_teacher(depth=6))


def test_another_architecture_is_one_line(make_teacher, make_student):
    with pytest.raises(UserError, match="a VisionTransformer cannot start from the blocks of a Cait"):
        copy_blocks(make_student("baseline"), make_teacher())
