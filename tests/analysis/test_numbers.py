"""The analyses against references of 50 digits: ill-conditioned, tiny, huge, degenerate and tied features."""

import mpmath
import numpy as np
import pytest

from stages.core.analysis.dims import dims, shares
from stages.core.analysis.pca import shared_basis
from stages.core.analysis.spectra import mean_spectra, moment, permuted_spectra, spectrum_of_moment
from stages.core.analysis.svd import energies

THRESHOLDS = [50, 80, 90, 95, 99]
SCALES = [1e-20, 1e-10, 1.0, 1e10, 1e18, 1e19]  # float32 ends at 3.4e38; sums of squares leave it at 1e19


def matrices(shape, kind, seed=0):
    """Two images of float32 features [2, tokens, channels]."""
    rng = np.random.default_rng(seed)
    tokens, channels = shape
    found = rng.normal(size=(2, tokens, channels))
    if kind == "ill-conditioned":  # singular values over 24 orders of magnitude
        left, _, right = np.linalg.svd(found, full_matrices=False)
        found = left * np.logspace(0, -24, min(shape)) @ right
    elif kind == "rank one":
        found = found[:, :, :1] * found[:, :1, :]
    elif kind == "mixed scales":
        found = found * np.logspace(-18, 18, channels)
    elif kind == "equal energies":
        found = np.stack([np.eye(tokens, channels), np.eye(tokens, channels)[::-1]])
    return found.astype(np.float32)


KINDS = ["normal", "ill-conditioned", "rank one", "mixed scales", "equal energies"]


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


def exact(image):
    return mpmath.matrix(image.astype(np.float64).tolist())


def exact_eigenvalues(symmetric):
    found = mpmath.eigsy(symmetric, eigvals_only=True)
    return sorted((max(value, mpmath.mpf(0)) for value in found), reverse=True)


def exact_dims(values):
    """The definition, without any tolerance but the documented one."""
    total, found = mpmath.fsum(values), []
    for threshold in THRESHOLDS:
        running, needed = mpmath.mpf(0), mpmath.mpf(threshold) / 100 - mpmath.mpf("1e-12")
        for count, value in enumerate(values, 1):
            running += value
            if running >= needed * total:
                found.append(count)
                break
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4), (4, 1)], ids=str)
def test_svd(shape, scale):
    features = (matrices(shape, "normal") * scale).astype(np.float32)
    found = energies(features)
    for image, of_image in zip(features, found, strict=True):
        gram = exact(image) * exact(image).T if shape[0] <= shape[1] else exact(image).T * exact(image)
        expected = exact_eigenvalues(gram)
        assert all(
            abs(a - mpmath.mpf(float(b))) <= 1e-13 * expected[0] for a, b in zip(expected, of_image, strict=True)
        )
        assert dims(shares(of_image[None]), THRESHOLDS)[0].tolist() == exact_dims(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_images(kind):
    features = matrices((4, 6), kind)
    found = energies(features)
    for image, of_image in zip(features, found, strict=True):
        expected = exact_eigenvalues(exact(image) * exact(image).T)
        np.testing.assert_allclose(of_image, [float(v) for v in expected], rtol=0, atol=1e-13 * float(expected[0]))
        assert dims(shares(of_image[None]), THRESHOLDS)[0].tolist() == exact_dims(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_pca(kind, scale):
    features = matrices((3, 4), kind)
    if kind != "mixed scales":
        features = (features * scale).astype(np.float32)
    found = shared_basis(features)
    tokens = mpmath.mpf(2 * 3)
    total = (exact(features[0]).T * exact(features[0]) + exact(features[1]).T * exact(features[1])) / tokens
    expected = exact_eigenvalues(total)
    np.testing.assert_allclose(found.eigenvalues, [float(v) for v in expected], rtol=0, atol=1e-13 * float(expected[0]))
    assert dims(shares(found.eigenvalues[None]), THRESHOLDS)[0].tolist() == exact_dims(expected)
    for image, along in zip(features, found.energies, strict=True):
        squares = mpmath.fsum(value**2 for value in exact(image))
        assert abs(mpmath.fsum(map(float, along)) - squares) <= 1e-13 * max(squares, mpmath.mpf(1e-300))


def exact_spectrum(tokens):
    """The mean over tokens of |DFT|² / Σ|DFT|², folded."""
    size = tokens.shape[1]
    mean = [mpmath.mpf(0)] * (size // 2 + 1)
    for token in tokens:
        values = [mpmath.mpf(float(value)) for value in token]
        total = size * mpmath.fsum(value**2 for value in values)
        for k in range(size):
            terms = (value * mpmath.expjpi(mpmath.mpf(-2 * k * n) / size) for n, value in enumerate(values))
            mean[min(k, size - k)] += abs(mpmath.fsum(terms)) ** 2 / total / len(tokens)
    return mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 6), (4, 5), (2, 1), (1, 2)], ids=str)
def test_sep_and_its_null(kind, shape):
    if kind == "equal energies" and shape[0] > shape[1]:
        shape = shape[::-1]  # else there are tokens of no energy
    features = matrices(shape, kind)
    expected = exact_spectrum(features.reshape(-1, shape[1]))
    wanted = [float(value) for value in expected]
    np.testing.assert_allclose(mean_spectra(features).mean(), wanted, atol=1e-14)
    np.testing.assert_allclose(spectrum_of_moment(moment(features)), wanted, atol=1e-14)
    assert dims(shares(mean_spectra(features).mean()[None]), THRESHOLDS)[0].tolist() == exact_dims(expected)
    order = np.random.default_rng(7).permutation(shape[1])
    of_permuted = [float(value) for value in exact_spectrum(features.reshape(-1, shape[1])[:, order])]
    np.testing.assert_allclose(permuted_spectra(moment(features), 1, seed=7)[0], of_permuted, atol=1e-14)


@pytest.mark.parametrize("scale", SCALES)
def test_sep_does_not_hang_on_scale(scale):
    features = (matrices((3, 6), "normal") * scale).astype(np.float32)
    expected = [float(value) for value in exact_spectrum(features.reshape(-1, 6))]
    np.testing.assert_allclose(mean_spectra(features).mean(), expected, atol=1e-14)
    np.testing.assert_allclose(spectrum_of_moment(moment(features)), expected, atol=1e-14)


@pytest.mark.parametrize("size", [2, 10, 20, 100, 200])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 3.7, 1e18])
def test_ties_at_thresholds_are_met(size, scale):
    """`size` equal energies: α is met by exactly α·size of them, where that is whole."""
    of_equal = dims(shares(np.full((1, size), np.float64(scale))), THRESHOLDS)[0]
    assert of_equal.tolist() == [-(-threshold * size // 100) for threshold in THRESHOLDS]
    permuted = np.eye(size, dtype=np.float32)[np.random.default_rng(1).permutation(size)] * np.float32(scale)
    assert dims(shares(energies(permuted[None])), THRESHOLDS)[0].tolist() == of_equal.tolist()
