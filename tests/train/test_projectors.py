"""What is trained beside the student: linear maps to the teacher's width, and the statistics of balanced targets."""

import numpy as np
import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.distillation.balanced_targets import BalancedTarget, balancing, hadamard_matrix, token_moments
from stages.core.distillation.projectors import make_projectors, projector_widths


def test_a_projector_is_a_linear_map_of_every_token():
    (projector,) = make_projectors([(5, 7)], "linear", seed=0)
    token_map = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    weight, bias = (value.detach().double().numpy() for value in (projector.linear.weight, projector.linear.bias))
    expected = np.einsum("bchw,dc->bdhw", token_map.double().numpy(), weight) + bias[:, None, None]
    np.testing.assert_allclose(projector(token_map).detach().numpy(), expected, atol=1e-6)


def test_an_orthogonal_projector_keeps_lengths_and_angles_while_it_is_trained():
    (projector,) = make_projectors([(5, 7)], "orthogonal", seed=0)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.3)
    tokens = torch.randn(50, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    target = torch.randn(50, 7, 1, 1, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(5):
        mapped = projector(tokens)
        gram = torch.einsum("ac,bc->ab", mapped[:, :, 0, 0], mapped[:, :, 0, 0])
        torch.testing.assert_close(gram, tokens[:, :, 0, 0] @ tokens[:, :, 0, 0].T, rtol=1e-4, atol=1e-4)
        loss = (mapped - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("kind", "trained"), [("linear", 2), ("orthogonal", 1), ("frozen", 0)])
def test_projectors_start_alike_in_every_process_and_draw_nothing_from_elsewhere(kind, trained):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = make_projectors([(5, 7), None], kind, seed=3)
    assert (torch.rand(3) == expected).all()
    torch.manual_seed(6)
    two, other = make_projectors([(5, 7), None], kind, seed=3), make_projectors([(5, 7)], kind, seed=4)
    token_map = torch.randn(2, 5, 3, 4)
    assert (one[0](token_map) == two[0](token_map)).all() and not (one[0](token_map) == other[0](token_map)).any()
    assert one[1](token_map) is token_map
    assert sum(parameter.requires_grad for parameter in one.parameters()) == trained


def test_equal_widths_are_projected_unless_the_objective_says_otherwise():
    widths = [(5, 7), (7, 7), (9, 7)]
    assert projector_widths(widths, None, project_equal=True) == [None, None, None]
    assert projector_widths(widths, "linear", project_equal=True) == widths
    assert projector_widths(widths, "frozen", project_equal=False) == [(5, 7), None, (9, 7)]


def test_an_orthogonal_projector_to_fewer_channels_is_refused():
    with pytest.raises(UserError, match=r"cannot map 9 channels of the student to 7 of the teacher"):
        projector_widths([(9, 7)], "orthogonal", project_equal=True)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 24, 48, 64, 96, 192, 240, 384, 768])
def test_hadamard_matrices_are_orthogonal_with_entries_of_one_modulus(order):
    matrix = hadamard_matrix(order)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(order), atol=1e-12)
    np.testing.assert_allclose(np.abs(matrix), order**-0.5)


@pytest.mark.parametrize("order", [3, 28, 54, 219])
def test_a_width_without_such_a_matrix_is_refused(order):
    with pytest.raises(UserError, match=rf"none of order {order} can be made"):
        hadamard_matrix(order)


def test_balanced_targets_have_one_variance_in_every_channel():
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(12, 12, generator=generator) * torch.logspace(0, -3, 12)
    maps = (torch.randn(64, 12, 4, 4, generator=generator).movedim(1, -1) @ mixture.T + 5).movedim(-1, 1)
    target = BalancedTarget(12)
    target.set_statistics(*token_moments(maps.split(10)))
    tokens = target(maps).movedim(1, -1).reshape(-1, 12)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(12), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.var(0, correction=0), torch.ones(12), rtol=1e-4, atol=0)
    # Rotation and one scale keep the proportions of all distances.
    before, after = maps.movedim(1, -1).reshape(-1, 12)[:20], tokens[:20]
    ratios = (torch.cdist(before, before) / torch.cdist(after, after)).flatten()
    ratios = ratios[ratios.isfinite()]
    assert ratios.max() / ratios.min() < 1.001


def test_moments_are_those_of_all_tokens():
    maps = torch.randn(7, 5, 3, 2, generator=torch.Generator().manual_seed(0)) + 3
    mean, covariance = token_moments(maps.split(2))
    tokens = maps.double().movedim(1, -1).reshape(-1, 5).numpy()
    np.testing.assert_allclose(mean, tokens.mean(0))
    np.testing.assert_allclose(covariance, np.cov(tokens.T, bias=True), rtol=1e-6)


def test_features_without_variance_are_refused():
    with pytest.raises(UserError, match="cannot be balanced"):
        balancing(np.zeros((4, 4)))
