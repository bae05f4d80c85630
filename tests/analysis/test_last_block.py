import pytest
import timm
import torch
import torch.nn.functional as F

from stages.core.analysis.last_block import reads_patch_tokens
from stages.core.models.blocks import recorded_blocks

READS = {"baseline": False, "widen": False, "uniform": False, "lift": True, "pooled": True, "widen_pooled": True}
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 3, 9, 7])


@pytest.mark.parametrize(("strategy", "reads"), READS.items())
def test_a_head_on_the_class_token_does_not_read_the_matched_tokens(strategy, reads, make_student, images, labels):
    student = make_student(strategy).eval()
    assert reads_patch_tokens(student, images, labels) is reads
    with recorded_blocks(student) as outputs:
        logits = student(images)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), outputs[-1])
    class_token, patches = gradient[:, 0], gradient[:, 1:]
    assert patches.shape[1] == 16
    assert torch.equal(patches, torch.zeros_like(patches)) is not reads
    assert torch.equal(class_token, torch.zeros_like(class_token)) is reads


@pytest.mark.parametrize(
    ("architecture", "arguments", "reads"),
    [
        ("cait_s24_224", {**VIT, "num_heads": 6, "init_values": 0.1}, True),  # its class attention reads them
        ("vit_tiny_patch16_224", VIT, False),
        ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 2}, False),  # of registers no more than of the class token
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg", "class_token": False}, True),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "window_size": 1, "num_classes": 10},
            True,
        ),  # maps, no tokens
    ],
)
def test_half_of_a_teacher_reads_them_if_the_teachers_head_does(architecture, arguments, reads, images, labels):
    model = timm.create_model(architecture, **arguments).eval()
    shown = F.interpolate(images, arguments["img_size"])
    assert reads_patch_tokens(model, shown, labels) is reads
    assert reads_patch_tokens(model, shown[:1], labels[:1]) is reads
