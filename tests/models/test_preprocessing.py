"""A teacher that is shown the students' images: normalised for it, of a size that it takes, or refused in one line."""

import pytest
import timm
import torch

from stages.core.base.errors import UserError
from stages.core.distillation.task import check_compatible
from stages.core.models.normalization import check_preprocessing, renormalization

CPU = torch.device("cpu")


def test_a_teacher_of_another_normalization_sees_the_same_images(make_student, teacher):
    student = make_student("widen")
    check_preprocessing(teacher, 8)
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def normalised(model):
        mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return (pixels - mean) / std

    found = renormalization(student, teacher, CPU)(normalised(student))
    torch.testing.assert_close(found, normalised(teacher), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [4, 16])
def test_a_teacher_for_images_of_another_size_is_named(make_student, teacher, size):
    expected = rf"^the teacher takes images of 8×8, but dataset.image_size is {size}; .*img_size to {size}$"
    with pytest.raises(UserError, match=expected):
        check_preprocessing(teacher, size)
    with pytest.raises(UserError, match=expected):
        check_compatible(make_student("lift", img_size=size), teacher, size, feature=True)


def test_a_vision_transformer_for_another_size_is_named_too(make_student):
    with pytest.raises(UserError, match=r"takes images of 8×8, but dataset.image_size is 16"):
        check_preprocessing(make_student("baseline"), 16)


def test_a_convolutional_teacher_takes_any_size_and_stays_in_its_mode():
    model = timm.create_model("resnet18", num_classes=3).train()
    check_preprocessing(model, 64)
    assert model.training


@pytest.mark.parametrize(
    ("key", "values", "limits"),
    [
        ("mean", (123.7, 116.3, 103.5), "0 to 1"),
        ("mean", (0.5,), "0 to 1"),
        ("std", (58.4, 57.1, 57.4), "above 0 to 1"),
        ("std", (0.2, 0.0, 0.2), "above 0 to 1"),
        ("std", (0.2, float("nan"), 0.2), "above 0 to 1"),
    ],
)
def test_an_impossible_normalization_is_refused(teacher, key, values, limits):
    teacher.pretrained_cfg = {**teacher.pretrained_cfg, key: values}
    with pytest.raises(UserError) as caught:
        check_preprocessing(teacher, 8)
    assert str(caught.value).startswith(f"the teacher's {key} is {values}, not three numbers from {limits}, as")
    assert "\n" not in str(caught.value)
