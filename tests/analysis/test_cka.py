"""CKA of blocks, against plain formulas."""

import numpy as np
import pytest
import torch

from stages.core.analysis.cka import BlockCka, block_cka, unbiased_hsic
from stages.core.base.errors import UserError


def plain_hsic(k: np.ndarray, other: np.ndarray) -> float:
    """By sums over distinct indices: the mean of k_ij (l_ij + l_qr − 2 l_iq) over all different i, j, q, r."""
    n = len(k)
    total = count = 0.0
    for i in range(n):
        for j in set(range(n)) - {i}:
            for q in set(range(n)) - {i, j}:
                for r in set(range(n)) - {i, j, q}:
                    total += k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
                    count += 1
    return total / count


@pytest.fixture
def outputs(rng) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.normal(size=(7, 3, width))) for width in (4, 6)]


def test_the_estimator_is_the_mean_over_distinct_images(outputs):
    kernels = torch.stack([one.flatten(1) @ one.flatten(1).T for one in outputs])
    found = unbiased_hsic(kernels, kernels)
    for a in range(2):
        for b in range(2):
            assert float(found[a, b]) == pytest.approx(plain_hsic(kernels[a].numpy(), kernels[b].numpy()), rel=1e-9)


def test_minibatches_are_averaged_before_the_ratio(outputs, rng):
    more = [torch.from_numpy(rng.normal(size=(7, 3, width))) for width in (4, 6)]
    cka = BlockCka()
    cross, own, other = 0.0, 0.0, 0.0
    for first, second in (outputs, more):
        cka.add([first], [second])
        kernels = [(one.flatten(1) @ one.flatten(1).T).numpy() for one in (first, second)]
        cross += plain_hsic(*kernels)
        own, other = own + plain_hsic(kernels[0], kernels[0]), other + plain_hsic(kernels[1], kernels[1])
    assert cka.result().item() == pytest.approx(cross / np.sqrt(own * other), rel=1e-9)
    assert cka.images == 14


def test_rotation_scale_and_shift_do_not_matter_and_unrelated_blocks_are_near_zero(rng):
    tokens = rng.normal(size=(60, 2, 5))
    turned = 3.0 * (tokens.reshape(60, 10) @ np.linalg.qr(rng.normal(size=(10, 10)))[0]) + rng.normal(size=10)
    unrelated = rng.normal(size=(60, 2, 40))  # the plain estimator would say about 0.4
    cka = BlockCka()
    cka.add([torch.from_numpy(tokens)], [torch.from_numpy(turned), torch.from_numpy(unrelated)])
    same, none = cka.result()[0].tolist()
    assert same == pytest.approx(1, abs=1e-9) and abs(none) < 0.1


def test_constant_blocks_and_too_few_images():
    cka = BlockCka()
    cka.add([torch.ones(5, 2, 3)], [torch.randn(5, 2, 3)])
    assert cka.result().item() == 0
    with pytest.raises(UserError, match="at least 4 images at a time, not 3"):
        cka.add([torch.ones(3, 2)], [torch.ones(3, 2)])


def test_blocks_of_two_models_are_compared_on_the_same_images(make_student, teacher):
    """By the outputs of both models' blocks in plain passes; a last minibatch of three is left out."""
    student = make_student("widen").eval()
    draws = torch.Generator().manual_seed(3)
    batches = [(torch.randn(size, 3, 8, 8, generator=draws), None) for size in (6, 5, 3)]
    found = block_cka(student, teacher, batches, torch.device("cpu"), lambda images: 2 * images)
    expected = BlockCka()
    for images, _ in batches[:2]:
        blocks, others = [], []
        hooks = [
            block.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
            for model, kept in ((student, blocks), (teacher, others))
            for block in model.blocks
        ]
        with torch.no_grad():
            student(images)
            teacher(2 * images)
        for hook in hooks:
            hook.remove()
        expected.add(blocks, others)
    np.testing.assert_allclose(found, expected.result().numpy(), atol=1e-9)
    assert found.shape == (2, 2)


def test_too_few_images_have_no_cka(make_student, teacher, images):
    assert np.isnan(block_cka(make_student("lift"), teacher, [(images[:3], None)], torch.device("cpu"))).all()
