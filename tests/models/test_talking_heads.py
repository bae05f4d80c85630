import copy

import pytest
import timm
import torch

from stages.core.models import backbones, folders
from stages.core.models.cost import flops
from stages.core.models.talking_heads import BatchedTalkingHeadAttn, batch_talking_heads


@pytest.fixture
def both():
    """A CaiT as timm makes it, and its batched twin; every weight counts."""
    torch.manual_seed(0)
    plain = timm.create_model("cait_xxs24_224", img_size=32, patch_size=8, depth=2, num_classes=5)
    for weights in plain.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    batched = copy.deepcopy(plain)
    batch_talking_heads(batched)
    return plain.double(), batched.double()


def test_outputs_gradients_keys_and_flops_are_timms(both):
    plain, batched = both
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = [model.train()(images) for model in both]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    gradients = [{name: weights.grad for name, weights in model.named_parameters()} for model in both]
    assert list(gradients[1]) == list(gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
    assert flops(batched.float(), 32) == flops(plain.float(), 32)


def test_every_way_to_a_model_gives_the_batched_one(make_teacher, tmp_path):
    folders.save(make_teacher(), tmp_path)
    made = [folders.load(tmp_path), backbones.random("cait_xxs24_224", {"depth": 2}, seed=0)[0]]
    for model in made:
        assert all(type(block.attn) is BatchedTalkingHeadAttn for block in model.blocks)
