import numpy as np
import pytest

from stages.core.analysis.dims import participation_ratio, summary
from stages.core.analysis.nulls import Gaussian, fit_gaussian
from stages.core.analysis.participation import (
    RATIO_UNIT,
    TokenSpread,
    count,
    gaussian_spreads,
    ratio_percentiles,
    spread_metrics,
    token_spreads,
)
from stages.core.analysis.pca import shared_basis
from stages.core.base.errors import UserError
from stages.core.features import store

THRESHOLDS = [80, 90]


def joined(spreads):
    parts = list(spreads)
    return TokenSpread(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ratios", "dims")))


def token_spread(*given):
    return joined(token_spreads(*given))


def gaussian_spread(*given, **options):
    return joined(gaussian_spreads(*given, **options))


@pytest.mark.parametrize(
    ("energies", "ratio"),
    [([1, 1, 1, 1], 4), ([5, 0, 0], 1), ([2, 2, 0, 0], 2), ([3, 1], 16 / 10), ([0, 0], 0), ([1e-150, 1e-150], 2)],
)
def test_known_vectors(energies, ratio):
    np.testing.assert_allclose(participation_ratio(np.array(energies, dtype=float)), ratio)


def test_neither_order_nor_scale_matters(rng):
    energies = rng.exponential(size=20)
    expected = participation_ratio(energies)
    np.testing.assert_allclose(participation_ratio(rng.permutation(energies) * 7), expected)
    assert 1 <= expected <= 20


def test_agrees_with_the_plain_definition(features):
    basis = shared_basis(features).basis
    found = token_spread(features, basis, THRESHOLDS)
    for place, token in enumerate(features.astype(float).reshape(-1, features.shape[2])):
        for column, energies in enumerate((token**2, (token @ basis) ** 2)):
            np.testing.assert_allclose(found.ratios[place, column], energies.sum() ** 2 / np.sum(energies**2))
        for row, ordered in enumerate((energies, np.sort(energies)[::-1])):
            share = np.cumsum(ordered) / ordered.sum()
            expected = [int(np.argmax(share >= threshold / 100)) + 1 for threshold in THRESHOLDS]
            np.testing.assert_array_equal(found.dims[place, row], expected)


def test_a_basis_can_fake_the_spread_over_channels_but_not_over_the_directions():
    """Tokens along one direction that is spread over all channels need one coordinate."""
    direction = np.ones(16) / 4
    tokens = np.random.default_rng(0).normal(size=(3, 10, 1)) * direction
    found = token_spread(tokens, shared_basis(tokens).basis, [99])
    np.testing.assert_allclose(found.ratios, np.tile([16.0, 1.0], (30, 1)))
    np.testing.assert_array_equal(found.dims, 1)


def test_the_fewest_directions_are_at_most_the_first_ones(features):
    found = token_spread(features, shared_basis(features).basis, THRESHOLDS)
    assert np.all(found.dims[:, 1] <= found.dims[:, 0])


def test_tokens_without_energy_are_left_out(features):
    basis = shared_basis(features).basis
    whole = token_spread(features[1:], basis, THRESHOLDS)
    features[0] = 0
    found = token_spread(features, basis, THRESHOLDS)
    np.testing.assert_allclose(found.ratios, whole.ratios)
    np.testing.assert_array_equal(found.dims, whole.dims)


def test_white_noise_has_a_third_of_its_channels():
    """Of a token on the sphere E Σx⁴ = 3/(D + 2)."""
    gaussian = Gaussian(np.zeros(40), np.eye(40))
    found = gaussian_spread(gaussian, np.eye(40), [95], tokens=20_500, seed=0)
    assert found.ratios.shape == (20_500, 2) and found.dims.shape == (20_500, 2, 1)
    np.testing.assert_allclose(1 / np.mean(1 / found.ratios, axis=0), 14, rtol=0.01)


def test_gaussian_tokens_are_like_their_null(rng):
    mixing = rng.normal(size=(12, 12)) * 0.7 ** np.arange(12)
    tokens = rng.normal(size=(100, 100, 12)) @ mixing.T + 0.3
    basis = shared_basis(tokens).basis
    observed = token_spread(tokens, basis, THRESHOLDS)
    null = gaussian_spread(fit_gaussian(tokens), basis, THRESHOLDS, tokens=10_000, seed=1)
    for sample, of in ((observed.ratios, null.ratios), (observed.dims, null.dims)):
        np.testing.assert_allclose(sample.mean(axis=0), of.mean(axis=0), rtol=0.02)


def test_the_counts_tell_what_the_tokens_do(rng):
    """Three chunks of tokens, counted one by one, against numpy on all tokens at once."""
    tokens = [rng.normal(size=(7, 33, 12)) * 0.7 ** np.arange(12) for _ in range(3)]
    basis = shared_basis(np.concatenate(tokens)).basis
    spreads = [token_spread(part, basis, THRESHOLDS) for part in tokens]
    whole, null = joined(spreads), token_spread(tokens[0] + 0.3, basis, THRESHOLDS)
    counted = count(spreads, 12, THRESHOLDS), count([null], 12, THRESHOLDS)
    metrics = spread_metrics(*counted, THRESHOLDS)
    assert (metrics["tokens_with_energy"], metrics["gaussian_tokens"]) == (3 * 7 * 33, 7 * 33)
    for kind, of in (("observed", whole), ("gaussian", null)):
        for column, basis_name in enumerate(("channels", "shared")):
            found = metrics["participation_ratio"][basis_name][kind]
            assert found == pytest.approx(summary(of.ratios[:, column]), abs=RATIO_UNIT)
        for row, order in enumerate(("leading", "fewest")):
            for column, threshold in enumerate(THRESHOLDS):
                assert metrics["token_dims"][order][str(threshold)][kind] == summary(of.dims[:, row, column])
    table = ratio_percentiles(*counted)
    assert table.shape == (2, 2, 101)
    for place, of in enumerate((whole, null)):
        np.testing.assert_allclose(
            table[:, place], np.percentile(of.ratios, range(101), axis=0).T, rtol=0, atol=RATIO_UNIT
        )


def test_features_without_energy_have_no_spread():
    metrics = spread_metrics(*[count(token_spreads(np.zeros((2, 3, 4)), np.eye(4), [80]), 4, [80])] * 2, [80])
    assert metrics["tokens_with_energy"] == 0
    assert set(metrics["participation_ratio"]["shared"]["observed"].values()) == {0.0}


def test_chunks_change_nothing(features, monkeypatch):
    basis = shared_basis(features).basis
    whole = token_spread(features, basis, THRESHOLDS)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2 * 8 * features[0].size)
    np.testing.assert_allclose(token_spread(features, basis, THRESHOLDS).ratios, whole.ratios)


def test_non_finite_features_are_refused_by_image(features):
    features[2, 1, 0] = np.nan
    with pytest.raises(UserError, match="image 2"):
        token_spread(features, np.eye(24), THRESHOLDS)
