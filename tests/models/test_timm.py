"""The registered students behave as timm's models do: the cases of timm's own tests of every model, small."""

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

STUDENTS = {
    "deit_tiny_lift_patch16_224": {"embed_dim": 48, "num_heads": 3, "lift_width": 96},
    "deit_tiny_widelast_patch16_224": {"embed_dim": 48, "num_heads": 3, "widen_widths": [64, 96]},
    "deit_tiny_uniform_patch16_224": {"embed_dim": 57, "num_heads": 3},
}
DEPTH, SIZE, CLASSES = 4, 32, 7


@pytest.fixture(params=STUDENTS, ids=lambda name: name.split("_")[2])
def make(request):
    """Make a small one of the registered students."""

    def make(**arguments):
        torch.manual_seed(0)
        given = {"img_size": SIZE, "depth": DEPTH, "num_classes": CLASSES, **STUDENTS[request.param], **arguments}
        return timm.create_model(request.param, **given).eval()

    make.architecture = request.param
    return make


@pytest.fixture
def pixels():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def blocks_own_features(model, pixels):
    """What leaves each block, as a map, read by hooks; of Lift's last block, behind the projector."""
    found = []
    hooks = [block.register_forward_hook(lambda *call: found.append(call[2][:, 1:])) for block in model.blocks]
    with torch.no_grad():
        model(pixels)
        if hasattr(model, "lift_proj"):
            found[-1] = model.lift_norm(model.lift_proj(found[-1]))
    for hook in hooks:
        hook.remove()
    return [tokens.transpose(1, 2).unflatten(2, (2, 2)) for tokens in found]


def test_backward_reaches_every_parameter(make, pixels):
    model = make().train()
    model(pixels).mean().backward()
    unused = {"cls_token"} if "lift" in make.architecture else set()  # Lift reads patch tokens, to which it attends
    assert {name for name, value in model.named_parameters() if value.grad is None} <= unused
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@torch.no_grad()
def test_the_default_configuration_is_the_models(make):
    config = timm.get_pretrained_cfg(make.architecture)
    model = timm.create_model(make.architecture).eval()
    outputs = model(torch.zeros(1, *config.input_size))
    assert outputs.shape == (1, config.num_classes) and outputs.isfinite().all()
    weights = model.state_dict()
    assert {f"{config.first_conv}.weight", f"{config.classifier}.weight"} <= weights.keys()
    assert weights[f"{config.classifier}.weight"].shape == (config.num_classes, model.num_features)


@torch.no_grad()
def test_heads_can_be_left_out(make, pixels):
    model = make()
    tokens = model.forward_features(pixels)
    pooled = model.forward_head(tokens, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size) and model.forward_head(tokens).shape == (2, CLASSES)
    model.reset_classifier(0)
    torch.testing.assert_close(model(pixels), pooled)
    assert make(num_classes=0)(pixels).shape == pooled.shape
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(pixels), tokens)


@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        ({}, [1, 2, 3]),
        ({"out_indices": [0]}, [0]),
        ({"out_indices": [0, 2]}, [0, 2]),
        ({"out_indices": [-2]}, [2]),
        ({"out_indices": [1, -1]}, [1, 3]),
        ({"out_indices": 1}, [3]),
    ],
    ids=str,
)
@torch.no_grad()
def test_features_are_each_blocks_own(make, pixels, indices, wanted):
    model = make()
    own = blocks_own_features(model, pixels)
    features = make(features_only=True, **indices)
    found = features(pixels)
    torch.testing.assert_close(found, [own[index] for index in wanted])
    assert features.feature_info.channels() == [one.shape[1] for one in found]
    assert len(features.model.blocks) == max(wanted) + 1
    assert not any(name.startswith("head") for name, _ in features.named_parameters())

    tokens, maps = model.forward_intermediates(pixels, indices=wanted)
    torch.testing.assert_close(maps, found)
    torch.testing.assert_close(tokens, model.forward_features(pixels))
    early = model.forward_intermediates(pixels, indices=wanted, stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, found)


@torch.no_grad()
def test_a_pruned_model_is_the_part_that_is_left(make, pixels):
    own = blocks_own_features(make(), pixels)
    for last in range(DEPTH):
        model = make()
        assert model.prune_intermediate_layers([last], prune_norm=True) == [last]
        tokens = model.forward_features(pixels)[:, -4:]
        torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, (2, 2)), own[last])
        tokens, (last_map,) = model.forward_intermediates(pixels, indices=1)
        torch.testing.assert_close(last_map, own[last])
        if "lift" in make.architecture:
            assert any("lift" in name for name, _ in model.named_parameters()) == (last == DEPTH - 1)


@torch.no_grad()
def test_the_final_norm_is_that_of_its_own_width(make, pixels):
    model = make()
    own = blocks_own_features(model, pixels)
    (last,) = model.forward_intermediates(pixels, indices=[-1], norm=True, intermediates_only=True)
    torch.testing.assert_close(last.flatten(2).mT, model.norm(own[-1].flatten(2).mT))
    if "widelast" in make.architecture:
        with pytest.raises(ValueError, match="block 1 has 48 channels, the final norm 96; do without the norm"):
            model.forward_intermediates(pixels, indices=[1, 3], norm=True)
        kept = make()
        kept.prune_intermediate_layers([2])  # not the norm: it is of the last block's width
        torch.testing.assert_close(kept.forward_intermediates(pixels, [2], norm=True)[1], [own[2]])


@torch.no_grad()
def test_a_graph_of_operations_gives_the_same(make, pixels):
    model = make()
    tracer = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    *_, last = get_graph_node_names(model, tracer_kwargs=tracer)[1]
    graph = create_feature_extractor(model, [last], tracer_kwargs=tracer)
    torch.testing.assert_close(graph(pixels)[last], model(pixels))


@torch.no_grad()
def test_an_exported_model_takes_any_number_of_images(make, pixels):
    model = make()
    free = {0: torch.export.Dim("images")}
    exported = torch.export.export(model, (pixels,), dynamic_shapes=(free,))
    for count in (1, 5):
        more = torch.randn(count, 3, SIZE, SIZE)
        torch.testing.assert_close(exported.module()(more), model(more), rtol=1e-4, atol=1e-5)
