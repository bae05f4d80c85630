import numpy as np
import pytest

from stages.core.analysis import intervals
from stages.core.analysis.intervals import of_another_sample, of_means, paired, percentile_of_another_sample
from stages.core.base.errors import UserError


def test_intervals_cover_the_mean_at_their_nominal_rate(rng):
    trials, images = 400, 60
    values = rng.exponential(size=(images, trials)) + np.arange(trials)
    low, high = of_means(values, resamples=500, seed=0)
    covered = np.mean((low <= 1 + np.arange(trials)) & (1 + np.arange(trials) <= high))
    assert 0.90 <= covered <= 0.98


def test_intervals_have_the_width_of_the_normal_approximation(rng):
    values = rng.normal(size=(400, 3)) * [1, 10, 0]
    low, high = of_means(values, resamples=4000, seed=0)
    expected = 2 * 1.96 * values.std(axis=0) / np.sqrt(400)
    np.testing.assert_allclose(high - low, expected, rtol=0.06)
    assert low[2] == high[2] == 0


def test_a_paired_difference_is_far_narrower_than_its_parts(rng):
    shared = rng.normal(size=(50, 1)) * 10
    observed, null = shared + rng.normal(size=(50, 1)) * 0.1 + 0.5, shared
    found = paired(observed, null, [95], resamples=1000, seed=0)
    width = {kind: of["high"]["95"] - of["low"]["95"] for kind, of in found.items()}
    assert width["difference"] < 0.05 * min(width["observed"], width["null"])
    np.testing.assert_allclose(found["difference"]["mean"]["95"], (observed - null).mean(), atol=1e-6)
    assert found["difference"]["low"]["95"] <= 0.5 <= found["difference"]["high"]["95"]


def test_intervals_follow_the_seed(rng):
    values = rng.normal(size=(10, 2))
    assert paired(values, values[::-1], [1, 2], 50, seed=1) == paired(values, values[::-1], [1, 2], 50, seed=1)
    assert paired(values, values[::-1], [1, 2], 50, seed=1) != paired(values, values[::-1], [1, 2], 50, seed=2)


def test_how_many_resamples_are_held_at_a_time_changes_nothing(rng, monkeypatch):
    values = rng.normal(size=(41, 3))
    whole = of_means(values, resamples=201, seed=0)
    monkeypatch.setattr(intervals, "BATCH_VALUES", 2 * values.size)
    np.testing.assert_array_equal(of_means(values, resamples=201, seed=0), whole)


def test_one_image_has_no_interval():
    with pytest.raises(UserError, match="at least two images, not 1"):
        of_means(np.zeros((1, 3)), resamples=10, seed=0)


@pytest.mark.parametrize(("mean", "percent"), [(10, 99), (10, 50), (60, 99), (2, 99)])
def test_the_interval_of_another_sample_holds_another_samples_value(mean, percent, rng):
    """Pairs of samples of one population: the second's percentile lies in the first's interval in 95 % of cases."""
    trials, images = 120, 1000
    low, high, other = [], [], []
    for seed in range(trials):
        first, second = rng.poisson(mean, (2, images, 1)) + 1
        found = percentile_of_another_sample(first, [95], 150, seed, percent)
        low.append(found["low"]["95"])
        high.append(found["high"]["95"])
        other.append(np.percentile(second, percent))
    held = np.mean((np.array(low) <= other) & (other <= np.array(high)))
    assert held >= 0.92
    assert np.percentile(np.array(high) - low, 90) <= 8 * np.std(other) + 2  # and it is not held by being wide


def test_two_samples_vary_more_than_one(rng):
    values = rng.normal(scale=100, size=400) + 5000

    def mean(drawn):
        return values[drawn].mean(axis=1)[:, None]

    low, high = of_another_sample(np.array([values.mean()]), mean, 400, resamples=4000, seed=0)
    expected = 2 * 1.96 * values.std() * np.sqrt(2 / 400)
    np.testing.assert_allclose(high - low, expected, rtol=0.08)
    assert low % 1 == high % 1 == 0 and low < values.mean() < high


def test_an_interval_of_another_sample_is_of_whole_dimensions_from_one_on(rng, monkeypatch):
    dims = np.stack([np.ones(50, int), rng.integers(1, 4, 50), np.arange(50) // 25 + 3], axis=1)
    found = percentile_of_another_sample(dims, [80, 90, 95], 99, 0)
    assert (found["low"]["80"], found["high"]["80"]) == (1, 1)
    assert found["low"]["90"] >= 1 and all(isinstance(end, int) for of in found.values() for end in of.values())
    monkeypatch.setattr(intervals, "BATCH_VALUES", 7 * len(dims))
    assert percentile_of_another_sample(dims, [80, 90, 95], 99, 0) == found
    wide = rng.integers(1, 10**6, (50, 3))
    assert percentile_of_another_sample(wide, [80, 90, 95], 99, 1) != percentile_of_another_sample(
        wide, [80, 90, 95], 99, 2
    )
