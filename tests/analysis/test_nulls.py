from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kstest

from stages.core.analysis import nulls
from stages.core.analysis.dims import shares
from stages.core.analysis.nulls import Gaussian, fit_gaussian, gaussian_moment, largest_gap, permutation_expectation
from stages.core.analysis.spectra import mean_spectra, moment, permuted_spectra, spectrum_of_moment, unfold
from stages.core.base.errors import UserError


def full_spectra(tokens):
    power = np.abs(np.fft.fft(tokens, axis=-1)) ** 2
    return power / power.sum(axis=-1, keepdims=True)


@pytest.fixture
def gaussian(rng):
    mixing = rng.normal(size=(9, 9)) * 0.6 ** np.arange(9)
    return Gaussian(rng.normal(size=9) * 0.5, mixing @ mixing.T)


@pytest.mark.parametrize("channels", [8, 7, 2, 1])
def test_white_noise_is_that_of_drawn_noise(rng, channels):
    tokens = rng.normal(size=(1, 200_000, channels))
    found = nulls.white_noise(channels)
    np.testing.assert_allclose(unfold(found, channels), np.full(channels, 1 / channels))
    np.testing.assert_allclose(found, mean_spectra(tokens).mean(), atol=0.004)


@pytest.mark.parametrize("channels", [6, 5, 2, 1])
def test_the_permutation_expectation_is_the_mean_over_every_order(rng, channels):
    tokens = rng.normal(size=(2, 3, channels)) + 0.4
    orders = [list(order) for order in permutations(range(channels))]
    expected = np.mean([full_spectra(tokens[..., order]).mean(axis=1) for order in orders], axis=0)
    share = tokens.sum(axis=-1) ** 2 / (channels * np.square(tokens).sum(axis=-1))
    found = permutation_expectation(share.mean(axis=1), channels)
    np.testing.assert_allclose(unfold(found, channels), expected, atol=1e-12)
    np.testing.assert_allclose(mean_spectra(tokens).folded[:, 0], share.mean(axis=1), atol=1e-12)


def test_the_permutation_expectation_is_the_mean_of_drawn_orders(features):
    drawn = permuted_spectra(moment(features), permutations=4000, seed=0)
    found = permutation_expectation(mean_spectra(features).mean()[0], features.shape[2])
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert np.all(np.abs(found - drawn.mean(axis=0)) < 5 * error + 1e-12)


def test_fitting_gives_mean_and_covariance(features):
    found = fit_gaussian(features)
    flat = features.astype(float).reshape(-1, features.shape[2])
    np.testing.assert_allclose(found.mean, flat.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(flat, rowvar=False, bias=True), atol=1e-12)


def test_drawn_tokens_follow_the_gaussian(gaussian):
    drawn = fit_gaussian(gaussian.sample(200_000, seed=1)[None])
    np.testing.assert_allclose(drawn.mean, gaussian.mean, atol=0.02)
    np.testing.assert_allclose(drawn.covariance, gaussian.covariance, atol=0.05)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_the_gaussian_moment_is_that_of_drawn_tokens(gaussian, scale):
    scaled = Gaussian(gaussian.mean * scale, gaussian.covariance * scale**2)
    found = gaussian_moment(scaled)
    np.testing.assert_allclose(found, moment(scaled.sample(400_000, seed=2)[None]), atol=0.003)
    np.testing.assert_allclose(np.trace(found), 1, atol=1e-10)


def test_the_gaussian_moment_of_known_distributions():
    np.testing.assert_allclose(gaussian_moment(Gaussian(np.zeros(5), 3 * np.eye(5))), np.eye(5) / 5, atol=1e-12)
    # E a²/(a² + b²) of two normal variables with standard deviations s and r is s / (s + r)
    two = gaussian_moment(Gaussian(np.zeros(2), np.diag([9.0, 1.0])))
    np.testing.assert_allclose(two, np.diag([0.75, 0.25]), atol=1e-10)
    mean = np.array([3.0, 4.0])
    np.testing.assert_allclose(gaussian_moment(Gaussian(mean, np.zeros((2, 2)))), np.outer(mean, mean) / 25, atol=1e-10)
    one = np.zeros((3, 3))
    one[1, 1] = 7
    np.testing.assert_allclose(np.diag(gaussian_moment(Gaussian(np.zeros(3), one))), [0, 1, 0], atol=1e-10)
    np.testing.assert_array_equal(gaussian_moment(Gaussian(np.zeros(3), np.zeros((3, 3)))), 0)


def test_the_gaussian_null_of_gaussian_tokens_is_their_spectrum(gaussian):
    tokens = gaussian.sample(100_000, seed=3)[None]
    found = spectrum_of_moment(gaussian_moment(fit_gaussian(tokens)))
    np.testing.assert_allclose(found, mean_spectra(tokens).mean(), atol=0.003)


def test_of_equal_gaps_the_first_is_taken_whatever_the_rounding():
    expected, permuted = np.zeros(4), np.zeros((3, 4))
    for rounding in (-1e-16, 0.0, 1e-16):
        found = largest_gap(np.array([0.0, -0.25, 0.25 + rounding, 0.0]), expected, permuted)
        assert (found.bin, found.value) == (1, -0.25)


def test_the_largest_gap_is_found():
    expected, observed = np.array([0.25, 0.5, 0.75, 1]), np.array([0.3, 0.4, 0.75, 1])
    permuted = expected + np.array([[0.1, 0, 0, 0], [0, 0, -0.2, 0], [0.05, 0, 0, 0]])
    found = largest_gap(observed, expected, permuted)
    assert (round(found.value, 9), found.bin, found.p_value) == (-0.1, 1, 3 / 4)
    np.testing.assert_allclose(found.permuted_p95, np.percentile([0.1, 0.2, 0.05], 95))
    assert largest_gap(expected + np.eye(4)[0], expected, permuted).p_value == 1 / 4


def test_p_values_are_uniform_where_the_order_is_random(rng):
    """The sample's M is arbitrary; every trial takes a new random order as the observed one."""
    channels, trials, drawn = 16, 300, 199
    of = moment(rng.normal(size=(1, 3, channels)) + rng.normal(size=channels))
    expected = shares(permutation_expectation(spectrum_of_moment(of)[0], channels))
    curves = shares(permuted_spectra(of, trials * (drawn + 1), seed=5)).reshape(trials, drawn + 1, -1)
    found = [largest_gap(trial[0], expected, trial[1:]).p_value for trial in curves]
    assert kstest(found, "uniform").pvalue > 0.01
    assert abs(np.mean(np.array(found) <= 0.05) - 0.05) < 0.04


def test_an_order_that_means_something_is_found():
    smooth = np.cumsum(np.random.default_rng(0).normal(size=(4, 50, 64)), axis=-1)
    spectrum = mean_spectra(smooth).mean()
    expected = shares(permutation_expectation(spectrum[0], 64))
    found = largest_gap(shares(spectrum), expected, shares(permuted_spectra(moment(smooth), 199, seed=0)))
    assert found.p_value == 1 / 200 and found.value > found.permuted_p95


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_refused_by_image(features, value):
    features[4, 0, 0] = value
    with pytest.raises(UserError, match="image 4"):
        fit_gaussian(features)
