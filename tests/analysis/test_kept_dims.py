"""Dims that accuracy needs, against tokens projected the plain way and heads that are known."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from stages.core.analysis import kept_dims
from stages.core.base.errors import UserError
from stages.core.models.blocks import Cut

CPU = torch.device("cpu")
VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def make(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**VIT, **options}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(1)
    return [(torch.randn(7, 3, 8, 8, generator=draws), torch.randint(0, 5, (7,), generator=draws)) for _ in range(2)]


MODELS = {
    "class token": (("deit_tiny_patch16_224", {}), 1),
    "mean of tokens": (("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}), 2),
    "class attention": (("cait_s24_224", {}), 2),
    "registers": (("vit_tiny_patch16_224", {"reg_tokens": 2, "global_pool": "token"}), 1),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_block_that_is_projected_is_the_last_whose_patches_the_logits_read(kind, batches):
    (name, options), expected = MODELS[kind]
    assert kept_dims.last_read_block(make(name, **options), batches[0][0]) == expected


@pytest.mark.parametrize("kind", MODELS)
def test_top1_is_that_of_tokens_projected_the_plain_way(kind, batches):
    """By a hook that replaces what leaves the block, in the whole model, for each d and image anew."""
    (name, options), block = MODELS[kind]
    model, dims = make(name, **options), [1, 3, 16, 24]
    shared = kept_dims.directions(model, batches, CPU, block).shared
    whole, found = kept_dims.top1_by_dims(model, batches, CPU, block=block, shared=shared, dims=dims)

    def plain(project) -> float:
        def replace(_, __, output):
            prefix = output.shape[1] - 16
            patches = torch.stack([project(image[prefix:].double()) for image in output]).to(output.dtype)
            return torch.cat([output[:, :prefix], patches], dim=1)

        hook = model.blocks[block].register_forward_hook(replace)
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
        hook.remove()
        return 100 * right / 14

    with torch.no_grad():
        assert whole == plain(lambda tokens: tokens)
        for place, d in enumerate(dims):
            assert found["shared"][place] == plain(lambda x, d=d: x @ shared[:, :d] @ shared[:, :d].T)

            def own(x: torch.Tensor, d: int = d) -> torch.Tensor:
                leading = torch.linalg.eigh(x.T @ x)[1].flip(1)[:, :d]
                return x @ leading @ leading.T

            assert found["per_image"][place] == plain(own)
        assert found["shared"][-1] == found["per_image"][-1] == whole


def test_the_model_is_left_as_it_was(batches):
    model = make("cait_s24_224")
    with torch.no_grad():
        before = model(batches[0][0])
        blocks = [*model.blocks]
        shared = kept_dims.directions(model, batches, CPU, 2).shared
        kept_dims.top1_by_dims(model, batches, CPU, block=2, shared=shared, dims=[1])
        assert all(one is other for one, other in zip(blocks, model.blocks, strict=True))
        assert torch.equal(model(batches[0][0]), before)


def test_shared_directions_are_those_of_the_uncentred_second_moment(batches):
    model = make("cait_s24_224")
    with torch.no_grad():
        tokens = torch.cat([Cut(model, 2).tokens(images) for images, _ in batches]).double().flatten(0, 1)
    shared = kept_dims.directions(model, batches, CPU, 2).shared
    energies = (tokens @ shared).square().sum(0)
    expected = np.linalg.svd(tokens.numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(energies.numpy(), expected, rtol=1e-8)


def test_energy_dims_are_those_of_the_tokens_that_are_cut(batches):
    model, levels = make("deit_tiny_patch16_224"), [50, 95]
    with torch.no_grad():
        tokens = torch.cat([Cut(model, 1).tokens(images)[:, 1:] for images, _ in batches]).double().numpy()

    def dims(matrix: np.ndarray) -> list[int]:
        held = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2)
        return [int(np.argmax(held >= held[-1] * level / 100)) + 1 for level in levels]

    found = kept_dims.directions(model, batches, CPU, 1).energy_dims(levels)
    assert list(found["shared"].values()) == dims(tokens.reshape(-1, 24))
    assert list(found["per_image"].values()) == pytest.approx(np.mean([dims(one) for one in tokens], axis=0), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 2, 2, 2)},
            96,
        ),
        ("resnet18", {}, 512),
    ],
)
def test_maps_are_projected_too(name, options, channels):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    if name == "resnet18":
        with pytest.raises(UserError, match="no sequence of blocks"):
            Cut(model, len(model.feature_info) - 1)
        return
    block = kept_dims.last_read_block(model, images)
    shared = kept_dims.directions(model, [(images, labels)], CPU, block).shared
    whole, found = kept_dims.top1_by_dims(model, [(images, labels)], CPU, block=block, shared=shared, dims=[channels])
    assert shared.shape == (channels, channels) and found["shared"] == [whole]


def test_the_grid_holds_both_ends_and_no_count_twice():
    assert kept_dims.grid(96, 12) == sorted(set(kept_dims.grid(96, 12))) and len(kept_dims.grid(96, 12)) <= 12
    assert kept_dims.grid(96, 12)[0] == 1 and kept_dims.grid(96, 12)[-1] == 96
    assert kept_dims.grid(3, 12) == [1, 2, 3]


def test_what_is_kept_must_stay_kept():
    dims, top1 = [1, 2, 4, 8, 16], [10.0, 76.0, 60.0, 79.0, 80.0]
    assert kept_dims.needed(dims, top1, 80.0, [10, 75, 95, 99, 100]) == {
        "10": 1,
        "75": 2,
        "95": 8,
        "99": 16,
        "100": 16,
    }
    assert kept_dims.needed(dims, top1, 90.0, [99]) == {"99": None}


def test_the_knee_is_where_a_broken_line_breaks():
    dims = list(range(1, 41))
    top1 = [8.0 * d if d <= 10 else 80.0 + (d - 10) * 0.1 for d in dims]
    assert kept_dims.knee(dims, top1) == 10
    assert kept_dims.knee([d * 3 for d in dims], [value / 50 for value in top1]) == 30
    assert kept_dims.knee([1, 2], [1.0, 2.0]) is None and kept_dims.knee([1, 2, 3], [1.0, 2.0, 3.0]) is None
