import numpy as np
import pytest
from scipy.linalg import subspace_angles

from stages.core.analysis.subspaces import (
    compared,
    effective_rank,
    leading_subspaces,
    overlap,
    pairs_across,
    pairs_within,
    principal_cosines,
    random_subspaces,
    stable_rank,
)

ONE_PAIR = np.zeros((1, 2), dtype=int)


def test_angles_of_constructed_subspaces():
    """Two planes of R⁵ that share a direction and turn the other by 30°, in random coordinates."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    first = turn[:, [0, 1]]
    second = np.stack([turn[:, 0], np.cos(np.pi / 6) * turn[:, 1] + np.sin(np.pi / 6) * turn[:, 3]], axis=1)
    found = principal_cosines(first[None], second[None], ONE_PAIR)
    np.testing.assert_allclose(np.degrees(np.arccos(found)), [[0, 30]], atol=1e-6)
    np.testing.assert_allclose(overlap(found), [(1 + 0.75) / 2])
    np.testing.assert_allclose(overlap(principal_cosines(first[None], turn[None, :, 2:4], ONE_PAIR)), 0, atol=1e-30)


def test_angles_are_those_of_scipy_and_independent_of_the_basis(rng):
    subspaces = random_subspaces(70, 12, 4, rng)
    pairs = rng.integers(0, 70, size=(100, 2))
    found = principal_cosines(subspaces, subspaces @ np.linalg.qr(rng.normal(size=(4, 4)))[0], pairs)
    for (i, j), cosines in zip(pairs, found, strict=True):
        np.testing.assert_allclose(np.arccos(cosines), subspace_angles(subspaces[i], subspaces[j])[::-1], atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 9, 24), (5, 24, 9)])
def test_leading_subspaces_are_those_of_the_svd(rng, shape):
    tokens = rng.normal(size=shape) * 0.7 ** np.arange(shape[2])
    found = leading_subspaces(tokens, 3)
    assert found.shape == (5, shape[2], 3)
    for image, basis in zip(tokens, found, strict=True):
        right = np.linalg.svd(image)[2][:3].T
        np.testing.assert_allclose(basis @ basis.T, right @ right.T, atol=1e-5)


def test_an_image_of_low_rank_still_gets_an_orthonormal_basis(rng):
    tokens = rng.normal(size=(1, 6, 1)) * rng.normal(size=20)
    basis = leading_subspaces(tokens, 3)[0]
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    direction = tokens[0, 0] / np.linalg.norm(tokens[0, 0])
    np.testing.assert_allclose(np.linalg.norm(basis.T @ direction), 1, atol=1e-6)


def test_random_subspaces_overlap_by_k_over_d(rng):
    subspaces = random_subspaces(800, 20, 5, rng)
    found = overlap(principal_cosines(subspaces[:400], subspaces[400:], np.stack([np.arange(400)] * 2, axis=1)))
    np.testing.assert_allclose(found.mean(), 5 / 20, atol=5 * found.std() / 20)


def test_pairs_are_within_and_across_classes(rng):
    classes = ["a"] * 4 + ["b"] * 3 + ["c"]
    for count in (5, 1000):
        within, across = pairs_within(classes, count, rng), pairs_across(classes, count, rng)
        assert len(within) == min(count, 6 + 3) and len(across) == min(count, 8 * 7 // 2 - 9)
        assert all(classes[i] == classes[j] and i != j for i, j in within)
        assert all(classes[i] != classes[j] for i, j in across)
        for pairs in (within, across):
            assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)


def test_one_image_a_class_has_no_pair_within(rng):
    within = pairs_within(["a", "b", "c"], 10, rng)
    assert within.shape == (0, 2)
    subspaces = random_subspaces(3, 8, 2, rng)
    found = dict(compared(subspaces, np.eye(8), within, pairs_across(["a", "b", "c"], 10, rng), rng))
    assert list(found) == ["across", "shared", "random"]


def test_every_pair_across_is_equally_likely():
    rng, classes = np.random.default_rng(3), list("aabbccdd")
    drawn = np.concatenate([pairs_across(classes, 2, rng) for _ in range(2400)])
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert np.sum((counts - 200) ** 2 / 200) < 49.7  # chi-squared, 23 degrees of freedom: 0.999


def test_images_that_turn_by_class_are_told_apart(rng):
    """Each class has a plane of its own: overlap 1 within, 0 across, and one half with the first two directions."""
    planes = np.stack([np.eye(8)[:, :2], np.eye(8)[:, 2:4]])
    tokens = np.stack([rng.normal(size=(6, 2)) @ planes[image % 2].T for image in range(6)])
    classes = ["even", "odd"] * 3
    subspaces = leading_subspaces(tokens, 2)
    within, across = pairs_within(classes, 99, rng), pairs_across(classes, 99, rng)
    found = {kind: overlap(of) for kind, of in compared(subspaces, np.eye(8), within, across, rng)}
    np.testing.assert_allclose(found["within"], np.ones(6), atol=1e-6)
    np.testing.assert_allclose(found["across"], np.zeros(9), atol=1e-6)
    np.testing.assert_allclose(found["shared"], [1, 0] * 3, atol=1e-6)


def test_ranks_of_known_spectra():
    for rank in (effective_rank, stable_rank):
        np.testing.assert_allclose(rank(np.array([[2.0, 2, 2, 0], [5, 0, 0, 0], [0, 0, 0, 0]])), [3, 1, 0])
    np.testing.assert_allclose(effective_rank(np.array([3.0, 1])), np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    np.testing.assert_allclose(stable_rank(np.array([3.0, 1])), 4 / 3)
    spectrum = np.array([8.0, 4, 2, 1])
    assert 1 < stable_rank(spectrum) < effective_rank(spectrum) < 4
