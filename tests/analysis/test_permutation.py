"""The release's permutation statistic, against a plain loop over orders and tokens."""

import numpy as np
import pytest

from stages.core.analysis import permutation, spectra
from stages.core.analysis.dims import dims, shares
from stages.core.analysis.permutation import shift_metrics, shifts

LEVELS = [50, 80, 90]
SINGLE = 1e-7  # what shares of single precision may err by


def plain_curves(features, order):
    """Each image's mean SEP curve over the full spectrum of its tokens, channels in a given order, [images, bins]."""
    power = np.abs(np.fft.fft(features[..., order].astype(np.float64), axis=-1)) ** 2
    return (np.cumsum(power, axis=-1) / power.sum(axis=-1, keepdims=True)).mean(axis=1)


def test_shifts_are_those_of_a_loop_over_tokens(features):
    rng = np.random.default_rng(5)
    observed = plain_curves(features, np.arange(24))
    permuted = [plain_curves(features, rng.permutation(24)) for _ in range(7)]
    found = shifts(features, LEVELS, orders=7, seed=5)
    np.testing.assert_array_equal(found.observed, dims(observed, LEVELS) / 24)
    moved = np.array([(dims(curves, LEVELS) - dims(observed, LEVELS)) / 24 for curves in permuted])
    np.testing.assert_allclose(found.by_order, moved.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.permuted - found.observed, moved.mean(axis=0), atol=1e-12)
    distances = [np.abs(curves.mean(axis=0) - observed.mean(axis=0)).mean() for curves in permuted]
    np.testing.assert_allclose(found.distance, distances, atol=SINGLE)


@pytest.mark.parametrize(("tokens", "channels"), [(1, 24), (7, 25), (10, 192)])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e30])
def test_spectra_in_single_precision_are_those_in_double(tokens, channels, scale, rng):
    image = (scale * rng.normal(size=(tokens, channels)) * 0.9 ** np.arange(channels)).astype(np.float32)
    orders = np.stack([rng.permutation(channels) for _ in range(5)])
    exact = np.concatenate([spectra.mean_spectra(image[None, :, order]).folded for order in orders])
    found = shares(permutation._full_spectra(image.astype(np.float64), orders))
    assert np.abs(found - shares(spectra.unfold(exact, channels))).max() < SINGLE


def test_orders_near_a_threshold_are_transformed_in_double_precision(features, monkeypatch):
    features[1] = 0
    features[1, :, 3] = 1.0  # flat under every order: a share of exactly one half
    exact: list[int] = []

    def counted(chunk):
        exact.append(len(chunk))
        return mean_spectra(chunk)

    mean_spectra = spectra.mean_spectra
    monkeypatch.setattr(spectra, "mean_spectra", counted)
    found = shifts(features, LEVELS, orders=4)
    assert exact == [1] * 5  # the observed order and four others, of one image
    assert found.observed[1].tolist() == [0.5, pytest.approx(20 / 24), pytest.approx(22 / 24)]
    monkeypatch.setattr(spectra, "NEAR", 1.0)
    again = shifts(features, LEVELS, orders=4)
    assert len(exact) == 5 + 5 * len(features)
    np.testing.assert_array_equal(again.permuted, found.permuted)
    np.testing.assert_array_equal(again.observed, found.observed)


def test_energy_at_the_lowest_frequencies_moves_up_when_channels_are_shuffled():
    wave = np.cos(2 * np.pi * np.arange(32) / 32)  # of one period: bins 1 and 31 of the full spectrum
    found = shifts(np.tile(wave, (3, 4, 1)).astype(np.float32), [40], orders=20)
    np.testing.assert_array_equal(found.observed, np.full((3, 1), 2 / 32))
    metrics = shift_metrics(found, [40], resamples=50, seed=0)
    assert metrics["shift"]["40"] > 0.1 and metrics["shift_low"]["40"] > 0.1
    assert metrics["shift"]["40"] == pytest.approx(metrics["permuted"]["40"] - metrics["observed"]["40"], abs=2e-6)
    assert metrics["shift_p5"]["40"] <= metrics["shift"]["40"] <= metrics["shift_p95"]["40"]


def test_images_without_energy_are_left_out(features):
    silent = np.concatenate([features, np.zeros_like(features[:1])])
    found, expected = (shifts(of, LEVELS, orders=3) for of in (silent, features))
    np.testing.assert_array_equal(found.permuted, expected.permuted)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-12)


def test_channels_that_are_all_equal_have_one_order():
    found = shifts(np.ones((2, 3, 8), np.float32), LEVELS, orders=4)
    assert not found.by_order.any() and found.distance == pytest.approx(np.zeros(4), abs=1e-12)
    assert dims(shares(np.eye(8)[0]), LEVELS).tolist() == [1, 1, 1]
