import json

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml

from stages.core.base.errors import UserError
from stages.core.config.params import Params
from stages.core.models import folders
from stages.core.models.cost import flops, parameters
from stages.core.models.lift import LiftedVisionTransformer, lift
from stages.core.models.maps import forward_with_map
from stages.core.models.widelast import WidenedVisionTransformer, widen
from stages.core.train.teacher import WithMaps
from stages.cost import ARGUMENTS
from stages.paths import REFERENCE
from stages.tools.compose import composed

STRATEGIES = ["baseline", "lift", "widen", "uniform"]
VISION = {
    "classes": 10,
    "image_size": 8,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.3, 0.3, 0.3),
    "std": (0.4, 0.4, 0.4),
}
SMALL = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
    ("architecture", "size", "operations"),
    [
        ("deit_tiny_patch16_224", 5_717_416, 2_507_366_400),
        ("deit_tiny_lift_patch16_224", 5_983_528, 2_536_651_776),
        ("deit_tiny_widelast_patch16_224", 7_313_896, 3_089_483_520),
    ],
)
def test_cost_at_the_papers_scale(architecture, size, operations):
    model = timm.create_model(architecture)
    assert parameters(model) == size
    assert flops(model, 224) == operations


def test_half_of_the_papers_teacher_is_the_teacher_without_half_of_its_blocks():
    with torch.device("meta"):  # without weights
        half, teacher = (timm.create_model("cait_s24_224", **arguments) for arguments in (ARGUMENTS["half"], {}))
    assert (len(half.blocks), len(teacher.blocks)) == (12, 24)
    assert parameters(half) == parameters(teacher) - sum(parameters(block) for block in teacher.blocks[12:])
    block = (flops(teacher, 224) - flops(half, 224)) / 12
    assert flops(half, 224) > 12 * block > 0.9 * flops(half, 224)  # the rest: patches, class attention, head


def test_counting_flops_leaves_the_model_as_it_was(make_student):
    model = make_student("widen").train()
    fused = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
    flops(model, 8)
    assert model.training
    assert [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")] == fused


@pytest.mark.parametrize("strategy", [*STRATEGIES, "teacher"])
@torch.no_grad()
def test_logits_with_map_equal_those_of_forward(strategy, make_student, teacher, images):
    model = teacher if strategy == "teacher" else make_student(strategy).eval()
    logits, last_map = forward_with_map(model, images)
    torch.testing.assert_close(logits, model(images))
    assert last_map.shape == (5, model.feature_info[-1]["num_chs"], 4, 4)


@pytest.mark.parametrize("strategy", ["baseline", "widen", "uniform"])
@torch.no_grad()
def test_map_is_the_last_blocks_output_before_the_norm(strategy, make_student, images):
    model = make_student(strategy).eval()
    outputs = []
    model.blocks[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
    _, last_map = forward_with_map(model, images)
    torch.testing.assert_close(last_map.flatten(2).transpose(1, 2), outputs[0][:, 1:])


@torch.no_grad()
def test_teachers_map_is_its_last_token_blocks_output(teacher, images):
    outputs = []
    teacher.blocks[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
    _, last_map = forward_with_map(teacher, images)
    torch.testing.assert_close(last_map.flatten(2).transpose(1, 2), outputs[0])


@pytest.mark.parametrize(("pooled", "plain"), [("pooled", "baseline"), ("widen_pooled", "widen")])
@torch.no_grad()
def test_a_pooled_student_is_the_plain_one_with_another_reading(pooled, plain, make_student, images):
    student, other = make_student(pooled).eval(), make_student(plain).eval()
    assert student.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in student.state_dict().items())
    tokens = student.norm(other.blocks(other.norm_pre(other._pos_embed(other.patch_embed(images)))))
    torch.testing.assert_close(student(images), student.head(tokens[:, 1:].mean(1)))
    torch.testing.assert_close(other(images), student.head(tokens[:, 0]))


@torch.no_grad()
def test_lift_reads_projected_patch_tokens(make_student, images):
    model = make_student("lift").eval()
    model.lift_norm.weight.normal_()
    model.lift_norm.bias.normal_()
    outputs = []
    model.blocks[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
    logits, last_map = forward_with_map(model, images)

    projected = F.linear(outputs[0][:, 1:], model.lift_proj.weight)
    lifted = F.layer_norm(projected, (96,), model.lift_norm.weight, model.lift_norm.bias, eps=1e-5)
    expected = F.linear(lifted.mean(dim=1), model.head.weight, model.head.bias)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(last_map, lifted.transpose(1, 2).reshape(5, 96, 4, 4))


@torch.no_grad()
def test_widened_block_projects_and_norms_its_input(make_student, images):
    model = make_student("widen").eval()
    block, calls = model.blocks[-1], []
    model.blocks[-2].register_forward_hook(lambda *call: calls.append(call[2]))
    block.register_forward_hook(lambda *call: calls.append(call[2]))
    model(images)
    before, after = calls

    width, heads = 96, 6
    assert (block.attn.num_heads, block.attn.head_dim) == (heads, 16)
    x = F.linear(before, block.proj_in.weight)
    x = F.layer_norm(x, (width,), block.proj_norm.weight, block.proj_norm.bias, eps=1e-6)
    normed = F.layer_norm(x, (width,), block.norm1.weight, block.norm1.bias, eps=1e-6)
    qkv = F.linear(normed, block.attn.qkv.weight, block.attn.qkv.bias)
    q, k, v = qkv.unflatten(2, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
    attended = ((q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + F.linear(attended, block.attn.proj.weight, block.attn.proj.bias)
    normed = F.layer_norm(x, (width,), block.norm2.weight, block.norm2.bias, eps=1e-6)
    hidden = F.gelu(F.linear(normed, block.mlp.fc1.weight, block.mlp.fc1.bias))
    torch.testing.assert_close(after, x + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias))


@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        ("baseline", {}),
        ("lift", {}),
        ("lift", {"lift_width": 64}),
        ("widen", {}),
        ("widen", {"widen_heads": 3}),
        ("widen", {"widen_blocks": 3, "depth": 4}),
        ("uniform", {}),
    ],
)
@torch.no_grad()
def test_intermediates_are_as_wide_as_feature_info_says(strategy, arguments, make_student, images):
    model = make_student(strategy, **arguments).eval()
    widths = [info["num_chs"] for info in model.feature_info]
    maps = model.forward_intermediates(images, intermediates_only=True)
    assert [found.shape for found in maps] == [(5, width, 4, 4) for width in widths]
    assert model.num_features == model.head.in_features == widths[-1]


@torch.no_grad()
def test_intermediates_of_lift_are_the_base_models_but_for_the_last(make_student, images):
    base, lifted = make_student("baseline").eval(), make_student("lift").eval()
    for name in ("patch_embed", "blocks"):
        getattr(lifted, name).load_state_dict(getattr(base, name).state_dict())
    lifted.cls_token.copy_(base.cls_token)
    lifted.pos_embed.copy_(base.pos_embed)
    (first,) = lifted.forward_intermediates(images, indices=[0], intermediates_only=True)
    torch.testing.assert_close(first, base.forward_intermediates(images, indices=[0], intermediates_only=True)[0])

    every = lifted.forward_intermediates(images, intermediates_only=True)
    tokens, maps = lifted.forward_intermediates(images, indices=1)
    torch.testing.assert_close(maps, every[-1:])
    torch.testing.assert_close(tokens, lifted.forward_features(images))
    tokens, maps = lifted.forward_intermediates(images, indices=[0], output_fmt="NLC")
    torch.testing.assert_close(maps[0].transpose(1, 2), first.flatten(2))
    torch.testing.assert_close(tokens, lifted.forward_features(images))


def test_linear_schedule_widens_in_equal_steps(make_student):
    model = make_student("widen", widen_blocks=3, depth=6)
    assert [info["num_chs"] for info in model.feature_info] == [48, 48, 48, 64, 80, 96]
    assert [block.norm1.normalized_shape[0] for block in model.blocks] == [48, 48, 48, 64, 80, 96]
    assert [block.attn.num_heads for block in model.blocks] == [3, 3, 3, 4, 5, 6]


def test_widening_a_plain_model_makes_it_a_widelast(make_student):
    model = make_student("baseline")
    assert widen(model, 96) is model and isinstance(model, WidenedVisionTransformer)


def test_widths_may_be_listed(make_student, images):
    model = make_student("widen", widen_width=None, widen_widths=[60, 78, 96], widen_heads=3, depth=6)
    assert [info["num_chs"] for info in model.feature_info] == [48, 48, 48, 60, 78, 96]
    assert [block.norm1.normalized_shape[0] for block in model.blocks] == [48, 48, 48, 60, 78, 96]
    assert {block.attn.num_heads for block in model.blocks} == {3}
    assert model(images).shape == (5, 10)
    equal = (
        make_student("widen", widen_blocks=3, depth=6),
        make_student("widen", widen_width=None, widen_widths=[64, 80, 96], depth=6),
    )
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in equal]
    assert shapes[0] == shapes[1]


def test_the_published_ablation_has_the_releases_widths_and_size(root):
    published = yaml.safe_load((root / REFERENCE / "paper.yaml").read_text())["ablation_cost"][
        "widen_linear_three_heads"
    ]
    given = Params.model_validate(yaml.safe_load(composed("profile=imagenet")))
    architecture, arguments = given.student.model("widen_linear_three_heads", given.teacher)
    model = timm.create_model(architecture, **arguments)
    assert parameters(model) == published["params"]
    assert [info["num_chs"] for info in model.feature_info] == published["widths"]
    assert {block.attn.num_heads for block in model.blocks} == {published["heads"]}


def test_widelast_starts_as_the_release_does_and_lifts_new_layers_as_torch_does(root):
    published = yaml.safe_load((root / REFERENCE / "paper.yaml").read_text())["initialisation"]["widen"]
    torch.manual_seed(0)
    widen, lifted = (timm.create_model(f"deit_tiny_{kind}_patch16_224") for kind in ("widelast", "lift"))
    with torch.no_grad():
        assert widen.head.weight.std().item() == pytest.approx(published["head"], rel=0.01)
        assert widen.head.weight.abs().max() > 3 * published["head"]  # normal: a uniform one ends at 1.7 times
        assert widen.head.bias.abs().max() == published["head_bias"]
        assert widen.cls_token.std().item() == pytest.approx(published["class_token"], rel=0.15)  # 192 values
        assert widen.pos_embed.std().item() == pytest.approx(published["position_embedding"], rel=0.02)
        for layer, inputs in ((lifted.lift_proj, 192), (lifted.head, 384)):  # plain nn.Linear in the release too
            bound = inputs**-0.5
            assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
        assert lifted.head.bias.std().item() == pytest.approx(384**-0.5 / 3**0.5, rel=0.05)
        assert lifted.cls_token.abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["reset", "jax", "jax_nlhb", "moco"])
def test_a_named_initialisation_is_the_baselines_in_widelast_too(make_student, mode):
    widen, plain = (make_student(kind, weight_init=mode, num_classes=1000) for kind in ("widen", "baseline"))
    for part in ("head.weight", "head.bias", "cls_token"):
        found, expected = (model.get_parameter(part).detach() for model in (widen, plain))
        scale = 2**-0.5 if mode == "reset" and part.startswith("head") else 1.0  # by the number of inputs, 96 for 48
        assert found.std().item() == pytest.approx(scale * expected.std().item(), rel=0.3), part
        assert found.mean().item() == pytest.approx(expected.mean().item(), abs=0.02), part


def test_lift_keeps_the_weights_of_the_blocks(make_student):
    model = make_student("baseline")
    before = {name: value.clone() for name, value in model.blocks.state_dict().items()}
    lifted = lift(model, 96)
    assert lifted is model
    assert isinstance(lifted, LiftedVisionTransformer)
    torch.testing.assert_close(dict(lifted.blocks.state_dict()), before, rtol=0, atol=0)
    assert not any(name.startswith(("norm.", "fc_norm.")) for name, _ in lifted.named_parameters())


def test_lift_refuses_other_models(make_student, teacher):
    for model in (teacher, make_student("lift"), make_student("widen")):
        with pytest.raises(TypeError, match=f"not a {type(model).__name__}"):
            lift(model, 96)


def test_widen_refuses_other_blocks(teacher):
    with pytest.raises(TypeError, match="standard transformer blocks"):
        widen(teacher, 192)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"width": 96, "blocks": 3}, "cannot widen 3 of 2"),
        ({"width": 96, "blocks": 0}, "cannot widen 0 of 2"),
        ({"width": 97, "blocks": 2}, "not whole"),
        ({"width": 96, "heads": 7}, "not a multiple of 7 heads"),
        ({"widths": [64, 80, 96]}, "cannot widen 3 of 2"),
        ({"widths": []}, "cannot widen 0 of 2"),
        ({"widths": [70, 96], "heads": 3}, "70 channels are not a multiple of 3 heads"),
        ({}, "either the last block's width or the list of widths"),
        ({"width": 96, "widths": [96]}, "either the last block's width or the list of widths"),
    ],
)
def test_widen_refuses_impossible_widths(make_student, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        widen(make_student("baseline"), **arguments)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("deit_tiny_patch16_224", {}),
        ("deit_tiny_lift_patch16_224", {"lift_width": 96}),
        ("deit_tiny_widelast_patch16_224", {"widen_width": 96, "widen_blocks": 2, "widen_heads": 3}),
        ("deit_tiny_widelast_patch16_224", {"widen_widths": [72, 96], "widen_heads": 3}),
        ("deit_tiny_uniform_patch16_224", {"embed_dim": 57}),
        ("deit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
        ("deit_tiny_widelast_patch16_224", {"widen_width": 96, "global_pool": "avg", "fc_norm": False}),
        ("cait_s24_224", {"embed_dim": 96, "num_heads": 6, "init_values": 0.1}),
    ],
)
@torch.no_grad()
def test_saved_models_load_as_they_were(architecture, arguments, tmp_path, images):
    model = folders.create(architecture, {**SMALL, **arguments}, seed=3, **VISION).eval()
    folders.save(model, tmp_path)
    loaded = folders.load(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    keys = ("input_size", "crop_pct", "interpolation", "mean", "std", "num_classes")
    for key in keys:
        assert json.dumps(loaded.pretrained_cfg[key]) == json.dumps(model.pretrained_cfg[key])


def test_weights_follow_the_seed():
    first, same, other = (
        folders.create("deit_tiny_lift_patch16_224", SMALL, seed=seed, **VISION).lift_proj.weight for seed in (0, 0, 1)
    )
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("deit_tiny_patch17", {}),
        ("deit_tiny_patch16_224", {"lift_width": 96}),
        ("deit_tiny_widelast_patch16_224", {**SMALL, "widen_width": 97, "widen_blocks": 2}),
    ],
)
def test_models_that_timm_cannot_make_are_named(architecture, arguments):
    with pytest.raises(UserError, match=architecture):
        folders.create(architecture, arguments, seed=0, **VISION)


def test_folders_without_a_model_are_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        folders.load(tmp_path)
    folders.save(folders.create("deit_tiny_patch16_224", SMALL, seed=0, **VISION), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=str(tmp_path)):
        folders.load(tmp_path)


@pytest.mark.parametrize(
    "strategy", ["lift", "widen", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("baseline", "uniform"))]
)
def test_students_compile_whole(make_student, images, strategy):
    model = make_student(strategy).eval()
    compiled = torch.compile(WithMaps(model), fullgraph=True, backend="aot_eager")
    logits, maps = compiled(images)
    for found, expected in zip((logits, *maps), forward_with_map(model, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen", "uniform"])
def test_students_take_another_head_and_spare_embeddings_the_decay(make_student, images, strategy):
    model = make_student(strategy)
    assert {"pos_embed", "cls_token"} <= model.no_weight_decay()
    model.reset_classifier(7)
    assert model(images).shape == (5, 7)
    assert model.forward_head(model.forward_features(images)).shape == (5, 7)
