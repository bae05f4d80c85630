"""The release's permutation statistic, against a plain loop over orders and tokens."""

import numpy as np
import pytest

from stages.core.analysis.energy import dims, shares
from stages.core.analysis.permutation import shift_metrics, shifts

LEVELS = [50, 80, 90]


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
    np.testing.assert_allclose(found.distance, distances, atol=1e-12)


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
