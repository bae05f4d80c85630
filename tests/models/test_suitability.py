"""Models that no profile has: they go through the whole pipeline, or one line says before any work what they lack."""

import pytest
import timm
import torch

from stages.core.base.errors import UserError
from stages.core.distillation.task import check_compatible, create_task
from stages.core.losses.targets import feature_target, has_target
from stages.core.models import folders
from stages.core.models.suitability import look
from stages.core.train.teacher import FrozenTeacher
from tests.sections import make_objective

CPU = torch.device("cpu")
DATA = {"crop_pct": 1.0, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 32}


@pytest.mark.parametrize("architecture", ["resnet10t", "convnext_atto", "vit_relpos_small_patch16_224"])
def test_a_position_embedding_is_drawn_where_there_is_one_alone(architecture):
    arguments = {"img_size": 32} if architecture.startswith("vit") else {}
    model = folders.create(architecture, arguments, classes=5, seed=0, position_std=0.3, **DATA)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("architecture", "arguments", "channels"),
    [("resnet10t", {}, (64, 512)), ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, (96, 768))],
)
def test_other_families_are_followed_to_their_maps(architecture, arguments, channels):
    found = look("teacher", architecture, arguments, 64, 5)
    assert tuple(found.maps[block][0] for block in ("first", "last")) == channels


@pytest.mark.parametrize(
    ("architecture", "arguments", "reason"),
    [
        ("resnet10t", {"embed_dim": 48}, "timm cannot make resnet10t .*; null in model_args leaves an argument"),
        ("vit_tiny_patch16_224", {"img_size": 64}, "takes no images of 32×32, dataset.image_size"),
    ],
)
def test_what_a_model_lacks_is_one_line(architecture, arguments, reason):
    with pytest.raises(UserError, match=reason) as caught:
        look("student.strategies.other", architecture, arguments, 32, 5)
    assert str(caught.value).startswith("student.strategies.other: ") and "\n" not in str(caught.value)


@pytest.fixture
def models():
    """A student of 4 × 4 tokens and a teacher of 2 × 2."""
    torch.manual_seed(0)
    shape = {"img_size": 8, "depth": 2, "num_heads": 3, "num_classes": 10}
    overlay = {"pretrained_cfg_overlay": {"input_size": (3, 8, 8)}}
    return [
        timm.create_model("deit_tiny_patch16_224", patch_size=patch, embed_dim=width, **shape, **overlay)
        for patch, width in ((2, 48), (4, 96))
    ]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_student_of_another_grid_learns_from_labels(models, alpha):
    student, teacher = models
    check_compatible(student, teacher, 8, feature=False, blocks=())
    with pytest.raises(UserError, match=r"token grid \(2, 2\) differs from the student's \(4, 4\)"):
        check_compatible(student, teacher, 8, feature=True)
    frozen = FrozenTeacher(teacher, (), device=CPU)
    task = create_task(student, frozen, make_objective(None, alpha=alpha), label_smoothing=0.1, device=CPU)
    loss = task(torch.randn(4, 3, 8, 8), torch.arange(4))["loss"]
    loss.backward()
    assert loss.isfinite() and student.head.weight.grad.abs().sum() > 0


def test_maps_of_other_grids_have_no_target():
    teacher, student = torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 4, 4)
    assert not has_target(teacher, student) and has_target(teacher, student[:, :, :2, :2])
    with pytest.raises(UserError, match="token grid"):
        feature_target(teacher, student)
