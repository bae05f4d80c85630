"""Measures of every block, against their definitions computed the plain way."""

import numpy as np
import pytest
import torch

from stages.core.analysis import dynamics

CPU = torch.device("cpu")


def test_intensity_is_the_mean_modulus_of_the_transform_over_channels(rng):
    tokens = rng.normal(size=(2, 3, 12))
    expected = np.abs(np.fft.fft(tokens, axis=-1)).mean(-1) / 12
    np.testing.assert_allclose(dynamics.frequency_intensity(torch.from_numpy(tokens)).numpy(), expected)
    constant = torch.full((1, 1, 8), 2.0)  # all of it at frequency 0: 16 / 8 / 8
    assert dynamics.frequency_intensity(constant).item() == pytest.approx(0.25)


def test_entropy_is_that_of_numpys_histogram(rng):
    tokens = rng.normal(size=(2, 3, 50))
    limits = dynamics.Range(tokens.min(), tokens.max())
    found = dynamics.token_entropy(torch.from_numpy(tokens), limits).numpy()
    for place in np.ndindex(2, 3):
        shares = np.histogram(tokens[place], bins=100, range=(limits.low, limits.high))[0] / 50
        assert found[place] == pytest.approx(-sum(share * np.log2(share) for share in shares if share))


def test_entropy_of_equal_and_of_evenly_spread_values():
    limits = dynamics.Range(0.0, 1.0)
    assert dynamics.token_entropy(torch.full((1, 1, 9), 0.3), limits).item() == 0
    even = (torch.arange(100.0)[None, None] + 0.5) / 100
    assert dynamics.token_entropy(even, limits).item() == pytest.approx(np.log2(100), rel=1e-6)
    assert dynamics.token_entropy(even, dynamics.Range(1.0, 1.0)).item() == 0


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen"])
def test_every_block_is_measured(make_student, images, strategy):
    """Activations and gradients by a plain pass that keeps every block's output, over two batches."""
    model = make_student(strategy).eval()
    labels = torch.tensor([0, 3, 3, 9, 1])
    found = dynamics.measure(model, [(images[:2], labels[:2]), (images[2:], labels[2:])], CPU)
    kept = []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    hooks = [block.register_forward_hook(keep) for block in model.blocks]
    logits = model(images)
    sum(logits[image, label] for image, label in enumerate(labels)).backward()
    for hook in hooks:
        hook.remove()
    assert [row["block"] for row in found] == list(range(len(model.blocks)))
    for row, output in zip(found, kept, strict=True):
        assert row["activation"] == pytest.approx(output.abs().mean().item(), rel=1e-5)
        assert row["gradient"] == pytest.approx(output.grad.abs().mean().item(), rel=1e-4)
    low, high = min(o.min().item() for o in kept), max(o.max().item() for o in kept)
    expected = dynamics.token_entropy(kept[0].detach(), dynamics.Range(low, high)).mean().item()
    assert found[0]["token_entropy"] == pytest.approx(expected, rel=1e-5)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_teacher_with_class_attention_is_measured_too(teacher, images):
    rows = dynamics.measure(teacher, [(images, torch.arange(5))], CPU)
    assert len(rows) == 2 and all(row["gradient"] > 0 for row in rows)
