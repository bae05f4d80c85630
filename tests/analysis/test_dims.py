import numpy as np
import pytest

from stages.core.analysis.dims import (
    by_threshold,
    dims,
    floor,
    left_over,
    participation_ratio,
    percentiles_of_counts,
    profile,
    shares,
    statistics,
    statistics_of,
    summary,
    summary_of_counts,
)
from stages.core.analysis.pca import shared_basis
from stages.core.analysis.svd import energies


def test_shares_rise_to_one(rng):
    found = shares(rng.random((5, 7, 11)))
    assert np.all(np.diff(found, axis=-1) >= 0)
    assert np.all(found >= 0)
    np.testing.assert_array_equal(found[..., -1], 1.0)


def test_shares_are_cumulative_sums_over_the_total(rng):
    energies = rng.random((4, 9))
    expected = [[row[: d + 1].sum() / row.sum() for d in range(9)] for row in energies]
    np.testing.assert_allclose(shares(energies), expected, rtol=1e-14)


def test_no_energy_has_all_shares_one():
    np.testing.assert_array_equal(shares(np.zeros((2, 3))), np.ones((2, 3)))


def test_energies_below_zero_by_rounding_count_as_zero():
    np.testing.assert_array_equal(shares(np.array([3.0, 1.0, -1e-17])), [0.75, 1.0, 1.0])


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 7e-9])
def test_thresholds_met_exactly_are_met(scale):
    np.testing.assert_array_equal(dims(shares(np.full(10, scale)), range(10, 100, 10)), range(1, 10))
    np.testing.assert_array_equal(dims(shares(scale * np.array([5, 3, 1, 1])), [50, 80, 90, 99]), [1, 2, 3, 4])


@pytest.mark.parametrize(("shortfall", "expected"), [(0.0, 1), (1e-13, 1), (1e-11, 2), (1e-6, 2)])
def test_shortfalls_beyond_rounding_miss_the_threshold(shortfall, expected):
    assert dims(np.array([0.8 - shortfall, 1.0]), [80]) == [expected]


def test_dims_are_the_smallest_number_reaching_each_threshold(rng):
    cumulative = shares(rng.random((20, 15)))
    thresholds = [1, 50, 80, 90, 99]
    expected = [[next(d for d in range(1, 16) if row[d - 1] >= t / 100) for t in thresholds] for row in cumulative]
    np.testing.assert_array_equal(dims(cumulative, thresholds), expected)


def test_statistics_equal_numpys(rng):
    values = rng.integers(1, 50, size=(37, 2))
    found = statistics(values, [80, 99])
    assert list(found) == ["dims_mean", "dims_std", "dims_median", "dims_p25", "dims_p75", "dims_p99"]
    expected = {
        "dims_mean": np.mean(values, axis=0),
        "dims_std": np.sqrt(np.mean((values - values.mean(axis=0)) ** 2, axis=0)),
        "dims_median": np.percentile(values, 50, axis=0),
        "dims_p25": np.percentile(values, 25, axis=0),
        "dims_p75": np.percentile(values, 75, axis=0),
        "dims_p99": np.percentile(values, 99, axis=0),
    }
    for name, of_thresholds in expected.items():
        assert list(found[name]) == ["80", "99"]
        np.testing.assert_allclose(list(found[name].values()), of_thresholds, atol=5e-7)


def test_statistics_of_one_number_per_image_are_those_of_a_column(rng):
    values = rng.integers(1, 50, size=37)
    column = statistics(values[:, None], [80])
    assert statistics_of(values) == {name.removeprefix("dims_"): of["80"] for name, of in column.items()}


def test_by_threshold_keeps_whole_numbers_whole():
    found = by_threshold(np.array([3.0, 1 / 3]), [80, 90])
    assert found == {"80": 3, "90": 0.333333}
    assert isinstance(found["80"], int)


def test_a_summary_is_of_its_values():
    values = np.arange(101.0)
    assert summary(values) == {"mean": 50, "median": 50, "p5": 5, "p95": 95}
    assert summary(np.array([1 / 3]))["mean"] == 0.333333


def test_what_is_left_over_and_what_is_held_make_one(rng):
    energies = rng.random((5, 7, 11))
    np.testing.assert_allclose(left_over(energies) + shares(energies), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(left_over(energies)[..., -1], 0.0)


def test_a_small_rest_is_exact():
    np.testing.assert_allclose(left_over(np.array([1.0, 3e-20, 1e-20])), [4e-20, 1e-20, 0.0], rtol=1e-14)


def test_no_energy_leaves_nothing_over():
    np.testing.assert_array_equal(left_over(np.zeros((2, 3))), np.zeros((2, 3)))


def test_participation_counts_equal_dimensions():
    ratios = participation_ratio(np.array([[5.0, 0, 0, 0], [2, 2, 0, 0], [3, 3, 3, 3], [0, 0, 0, 0], [3, 1, 0, 0]]))
    np.testing.assert_allclose(ratios, [1, 2, 4, 0, 1.6])


def test_floors_are_those_of_truncated_svds(features):
    tokens = features.astype(np.float64)
    flat, total = tokens.reshape(-1, 24), np.square(tokens).sum()
    spectra = shared_basis(features).eigenvalues, energies(features).mean(axis=0)
    found = np.stack([floor(spectrum, 24) for spectrum in spectra])
    u, s, vt = np.linalg.svd(flat, full_matrices=False)
    own = [np.linalg.svd(image, full_matrices=False) for image in tokens]
    for d in (1, 3, 9, 24):
        fixed = np.square(flat - (u[:, :d] * s[:d]) @ vt[:d]).sum() / total
        parts = [np.square(x - (a[:, :d] * b[:d]) @ c[:d]).sum() for x, (a, b, c) in zip(tokens, own, strict=True)]
        np.testing.assert_allclose(found[:, d - 1], [fixed, sum(parts) / total], atol=1e-13)


def test_a_profile_of_a_few_at_a_time_is_that_of_all(rng):
    energies = rng.exponential(size=(7, 9))
    found = profile(np.split(energies, [3, 4]), [50, 90])
    np.testing.assert_array_equal(found.dims, dims(shares(energies), [50, 90]))
    np.testing.assert_allclose(found.curve, shares(energies).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.spectrum, energies.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.captured, np.percentile(shares(energies), [50, 10, 1], axis=0), rtol=1e-6)


@pytest.mark.parametrize("numbers", [[0], [3, 3], [1, 4, 4, 9], range(50)], ids=len)
def test_counts_tell_what_the_numbers_do(numbers):
    counts = np.bincount(numbers)
    np.testing.assert_allclose(percentiles_of_counts(counts, range(101)), np.percentile(numbers, range(101)))
    assert summary_of_counts(counts, 0.5) == pytest.approx(summary(np.array(numbers) * 0.5))
