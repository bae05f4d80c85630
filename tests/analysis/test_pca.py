import numpy as np
import pytest

from stages.core.analysis.dims import shares
from stages.core.analysis.pca import shared_basis
from stages.core.analysis.svd import energies
from stages.core.base.errors import UserError
from stages.core.features import store


def test_captured_energy_rises_to_one(features):
    found = shared_basis(features)
    for captured in (shares(found.eigenvalues), shares(found.energies)):
        assert np.all(np.diff(captured, axis=-1) >= 0)
        np.testing.assert_allclose(captured[..., -1], 1.0, rtol=1e-14)


@pytest.mark.parametrize("shape", [(6, 9, 24), (6, 24, 9), (1, 3, 8)])
def test_agrees_with_the_plain_definition(rng, shape):
    tokens = rng.normal(size=shape) * 0.8 ** np.arange(shape[2]) + 0.3
    found = shared_basis(tokens.astype(np.float32))
    tokens = tokens.astype(np.float32).astype(np.float64)

    moment = sum(np.outer(token, token) for image in tokens for token in image) / (shape[0] * shape[1])
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(moment)[::-1], atol=1e-12)
    np.testing.assert_allclose(found.basis @ np.diag(found.eigenvalues) @ found.basis.T, moment, atol=1e-12)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(shape[2]), atol=1e-12)
    expected = [[np.sum((image @ direction) ** 2) for direction in found.basis.T] for image in tokens]
    np.testing.assert_allclose(found.energies, expected, rtol=1e-10, atol=1e-12)


def test_energies_of_images_average_to_the_eigenvalues(features):
    found = shared_basis(features)
    np.testing.assert_allclose(found.energies.mean(axis=0) / features.shape[1], found.eigenvalues, atol=1e-10)


def test_a_basis_keeps_each_images_energy(features):
    expected = np.square(features, dtype=np.float64).sum(axis=(1, 2))
    np.testing.assert_allclose(shared_basis(features).energies.sum(axis=1), expected)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_basis_captures_more(features, seed):
    channels = features.shape[2]
    random_basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(channels, channels)))[0]
    flat = features.reshape(-1, channels).astype(np.float64)
    of_random = np.sort(np.square(flat @ random_basis).sum(axis=0))[::-1]
    assert np.all(shares(shared_basis(features).eigenvalues) >= shares(of_random) - 1e-12)


def test_an_images_own_svd_captures_at_least_as_much(features):
    own = shares(energies(features))
    shared = shares(shared_basis(features).energies)[:, : own.shape[1]]
    assert np.all(own >= shared - 1e-12)


def test_one_image_is_its_own_dataset(rng):
    image = rng.normal(size=(1, 30, 8)).astype(np.float32)
    np.testing.assert_allclose(shared_basis(image).energies, energies(image), rtol=1e-10)


def test_zeros_have_no_energy():
    found = shared_basis(np.zeros((2, 3, 4), dtype=np.float32))
    np.testing.assert_array_equal(found.energies, np.zeros((2, 4)))


def test_chunks_change_nothing(features, monkeypatch):
    whole = shared_basis(features)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2 * 8 * features[0].size)
    np.testing.assert_allclose(shared_basis(features).energies, whole.energies, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_refused_by_image(features, value):
    features[3, 0, 0] = value
    with pytest.raises(UserError, match="image 3"):
        shared_basis(features)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_features_of_no_size_are_refused(shape):
    with pytest.raises(UserError, match="features must be"):
        shared_basis(np.zeros(shape, dtype=np.float32))
