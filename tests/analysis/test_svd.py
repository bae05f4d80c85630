import numpy as np
import pytest

from stages.core.analysis.dims import dims, shares
from stages.core.analysis.svd import energies, numerical_rank
from stages.core.base.errors import UserError
from stages.core.features import store

THRESHOLDS = [50, 80, 90, 95, 99]


def dims_by_full_svd(image):
    squared = np.linalg.svd(image.astype(np.float64), full_matrices=True, compute_uv=True)[1] ** 2
    share = np.cumsum(squared) / squared.sum()
    return [int(np.argmax(share >= threshold / 100)) + 1 for threshold in THRESHOLDS]


@pytest.mark.parametrize("shape", [(5, 9, 24), (5, 24, 9), (3, 12, 12), (2, 1, 7), (2, 7, 1), (1, 1, 1)])
def test_dims_equal_those_of_a_full_svd(rng, shape):
    images = (rng.normal(size=shape) * 0.7 ** np.arange(shape[2]) + 0.3).astype(np.float32)
    found = energies(images)
    assert found.shape == (shape[0], min(shape[1:]))
    np.testing.assert_array_equal(dims(shares(found), THRESHOLDS), [dims_by_full_svd(image) for image in images])


def test_energies_are_squared_singular_values_largest_first(features):
    expected = np.linalg.svd(features.astype(np.float64), compute_uv=False) ** 2
    np.testing.assert_allclose(energies(features), expected, rtol=1e-9, atol=1e-9)


def test_energies_sum_to_the_squared_norm(features):
    np.testing.assert_allclose(energies(features).sum(axis=1), np.square(features, dtype=np.float64).sum((1, 2)))


@pytest.mark.parametrize("shape", [(4, 20), (20, 4)])
def test_equal_tokens_need_one_dimension(rng, shape):
    tokens = np.tile(rng.normal(size=shape[1]).astype(np.float32), (1, shape[0], 1))
    np.testing.assert_array_equal(dims(shares(energies(tokens)), THRESHOLDS), [[1] * len(THRESHOLDS)])


def test_zeros_need_one_dimension():
    found = energies(np.zeros((2, 4, 6), dtype=np.float32))
    np.testing.assert_array_equal(found, np.zeros((2, 4)))
    np.testing.assert_array_equal(dims(shares(found), THRESHOLDS), np.ones((2, len(THRESHOLDS))))


@pytest.mark.parametrize("shape", [(9, 24), (24, 9), (12, 12)])
@pytest.mark.parametrize("rank", [0, 1, 4, 9])
def test_the_numerical_rank_is_numpys_in_float32(rng, shape, rank):
    images = (rng.normal(size=(3, shape[0], rank)) @ rng.normal(size=(3, rank, shape[1]))).astype(np.float32)
    found = numerical_rank(energies(images), tokens=shape[0], channels=shape[1])
    np.testing.assert_array_equal(found, [np.linalg.matrix_rank(image) for image in images])
    np.testing.assert_array_equal(found, [rank] * 3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_dims_do_not_depend_on_scale(features, scale):
    scaled = (features * np.float32(scale)).astype(np.float32)
    expected = dims(shares(energies(features)), THRESHOLDS)
    np.testing.assert_array_equal(dims(shares(energies(scaled)), THRESHOLDS), expected)


def test_chunks_change_nothing(features, monkeypatch):
    whole = energies(features)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2 * 8 * features[0].size)
    np.testing.assert_allclose(energies(features), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused_by_image(features, value):
    features[4, 2, 3] = value
    with pytest.raises(UserError, match="image 4"):
        energies(features)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (3, 4)])
def test_features_of_no_size_are_refused(shape):
    with pytest.raises(UserError, match="features must be"):
        energies(np.zeros(shape, dtype=np.float32))
