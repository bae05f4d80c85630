import numpy as np
import pytest

from stages.core.analysis import spectra
from stages.core.analysis.dims import dims, shares
from stages.core.analysis.spectra import (
    dims_of_another_sample,
    dims_of_one_image,
    image_dims,
    mean_spectra,
    moment,
    pattern,
    permuted_spectra,
    spectrum_of_moment,
    token_std,
    unfold,
)
from stages.core.base.errors import UserError
from stages.core.features import store

THRESHOLDS = [50, 70, 90]


@pytest.fixture(params=[24, 7, 2, 1], ids=lambda channels: f"{channels} channels")
def tokens(request, rng):
    return (rng.normal(size=(4, 5, request.param)) + 0.5).astype(np.float32)


def full_spectra(tokens):
    """Each token's normalised |DFT|², bin by bin, as the definition has it."""
    power = np.abs(np.fft.fft(tokens.astype(np.complex128), axis=-1)) ** 2
    return power / power.sum(axis=-1, keepdims=True)


def fold(full):
    channels = full.shape[-1]
    bins = range(channels // 2 + 1)
    mirrors = [{k, (channels - k) % channels} for k in bins]
    return np.stack([sum(full[..., k] for k in pair) for pair in mirrors], axis=-1)


def test_mean_spectrum_is_that_of_every_tokens_fft(tokens):
    found, expected = mean_spectra(tokens), full_spectra(tokens)
    channels = tokens.shape[2]
    np.testing.assert_allclose(unfold(found.mean(), channels), expected.mean(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(unfold(found.folded, channels), expected.mean(axis=1), atol=1e-12)


def test_mean_curve_is_the_mean_of_the_tokens_curves(tokens):
    curves = np.cumsum(full_spectra(tokens), axis=-1)
    found = shares(unfold(mean_spectra(tokens).mean(), tokens.shape[2]))
    np.testing.assert_allclose(found, curves.mean(axis=(0, 1)), atol=1e-12)


def test_the_deviation_over_tokens_is_that_of_the_tokens_curves(tokens):
    full = full_spectra(tokens)
    with_silent = np.concatenate([tokens, np.zeros_like(tokens[:1])])
    found = token_std(with_silent)
    np.testing.assert_allclose(found["full"], np.cumsum(full, axis=-1).std(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found["folded"], np.cumsum(fold(full), axis=-1).std(axis=(0, 1)), atol=1e-6)
    assert found["full"][-1] == found["folded"][-1] == 0


def test_folded_and_full_agree(tokens):
    found, expected = mean_spectra(tokens), full_spectra(tokens)
    np.testing.assert_allclose(found.folded, fold(expected).mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(fold(unfold(found.folded, tokens.shape[2])), found.folded, atol=1e-15)


def test_unfolding_keeps_its_input(features):
    folded = mean_spectra(features).folded
    before = folded.copy()
    unfold(folded, features.shape[2])
    np.testing.assert_array_equal(folded, before)


def test_spectra_sum_to_one_by_parseval(tokens):
    found = mean_spectra(tokens)
    np.testing.assert_allclose(found.folded.sum(axis=-1), 1.0)
    np.testing.assert_allclose(unfold(found.mean(), tokens.shape[2]).sum(), 1.0)
    np.testing.assert_allclose(np.trace(moment(tokens)), 1.0)


def test_the_full_curve_of_real_tokens_is_symmetric(features):
    full = unfold(mean_spectra(features).mean(), features.shape[2])
    np.testing.assert_allclose(full[1:], full[:0:-1])


def test_moment_is_the_mean_of_normalised_outer_products(tokens):
    flat = tokens.astype(np.float64).reshape(-1, tokens.shape[2])
    expected = np.mean([np.outer(token, token) / (token @ token) for token in flat], axis=0)
    np.testing.assert_allclose(moment(tokens), expected, atol=1e-12)


def test_moment_route_equals_the_direct_one(tokens):
    np.testing.assert_allclose(spectrum_of_moment(moment(tokens)), mean_spectra(tokens).mean(), atol=1e-12)


def test_permuted_spectra_are_those_of_permuted_tokens(tokens):
    channels = tokens.shape[2]
    found = permuted_spectra(moment(tokens), permutations=6, seed=3)
    rng = np.random.default_rng(3)
    expected = [mean_spectra(tokens[..., rng.permutation(channels)]).mean() for _ in range(6)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_permutations_follow_the_seed(features):
    found = moment(features)
    np.testing.assert_array_equal(permuted_spectra(found, 3, seed=1), permuted_spectra(found, 3, seed=1))
    assert not np.allclose(permuted_spectra(found, 3, seed=1), permuted_spectra(found, 3, seed=2))


def test_tokens_without_energy_are_left_out(features):
    expected = full_spectra(features)
    expected = (expected[1].sum(axis=0) + expected[2:].sum(axis=(0, 1)) + expected[0, 3:].sum(axis=0)) / (6 * 9 - 3)
    features[0, :3] = 0
    found = mean_spectra(features)
    assert found.zero_tokens == 3
    np.testing.assert_array_equal(found.tokens, [6, 9, 9, 9, 9, 9])
    np.testing.assert_allclose(unfold(found.mean(), features.shape[2]), expected, atol=1e-12)
    np.testing.assert_allclose(spectrum_of_moment(moment(features)), found.mean(), atol=1e-12)


def test_an_image_without_energy_has_no_spectrum(features):
    features[2] = 0
    found = mean_spectra(features)
    np.testing.assert_array_equal(found.folded[2], 0)
    np.testing.assert_allclose(found.mean(), np.delete(found.folded, 2, axis=0).mean(axis=0))


def test_constant_tokens_hold_all_energy_in_the_first_bin():
    np.testing.assert_allclose(mean_spectra(np.full((2, 3, 8), -2, dtype=np.float32)).mean(), [1, 0, 0, 0, 0])


@pytest.mark.parametrize("full", [False, True])
def test_pattern_reads_dims_and_bandwidths_off_the_curves(features, full):
    spectra, null = mean_spectra(features), permuted_spectra(moment(features), permutations=20, seed=0)
    mean = spectra.mean()
    if full:
        mean, null = unfold(mean, 24), unfold(null, 24)
    found = pattern(mean, null, THRESHOLDS)
    bins, curves = len(mean), np.cumsum(null, axis=1)

    reached = [int(np.argmax(np.cumsum(mean) >= threshold / 100)) + 1 for threshold in THRESHOLDS]
    assert found.metrics["bins"] == bins == (24 if full else 13)
    assert list(found.metrics["dims"].values()) == reached
    np.testing.assert_allclose(list(found.metrics["bandwidth"].values()), np.divide(reached, bins), atol=5e-7)
    of_null = np.mean([[np.argmax(curve >= t / 100) + 1 for t in THRESHOLDS] for curve in curves], axis=0)
    np.testing.assert_allclose(list(found.metrics["permuted_bandwidth"].values()), of_null / bins, atol=5e-7)
    expected = [np.cumsum(mean), curves.mean(axis=0), *(np.percentile(curves, p, axis=0) for p in (5, 95))]
    np.testing.assert_allclose(found.curve, expected, atol=1e-12)


@pytest.mark.parametrize("images_at_a_time", [2, 100])
def test_dims_of_images_are_those_of_their_own_spectra(features, images_at_a_time, monkeypatch):
    features[1] = 0
    spectra = mean_spectra(features)
    monkeypatch.setattr(store, "CHUNK_BYTES", images_at_a_time * 8 * features[0].size)
    found = image_dims(features, THRESHOLDS)
    np.testing.assert_allclose(found.mean, spectra.mean(), rtol=1e-6)
    assert found.zero_tokens == len(features[1])
    np.testing.assert_array_equal(found.with_energy, [True, False, True, True, True, True])
    kept = np.delete(spectra.folded, 1, axis=0)
    first = kept[:, :1]  # which no order of the channels changes; the others share the rest alike
    by_chance = np.concatenate([first, np.repeat((1 - first) / 23, 23, axis=1)], axis=1)
    for name, of, null in (("folded", kept, fold(by_chance)), ("full", unfold(kept, 24), by_chance)):
        for sides, expected in ((found.observed, of), (found.expected, null)):
            np.testing.assert_array_equal(sides[name][found.with_energy], dims(np.cumsum(expected, axis=1), THRESHOLDS))


def test_dims_of_another_sample_are_those_of_resampled_tokens(features):
    """Against a plain loop that draws the images and transforms all their tokens again."""
    features[1, 3:] = 0  # an image of fewer tokens counts less
    images, rng = image_dims(features, THRESHOLDS), np.random.default_rng(4)

    def of(tokens):
        return dims(shares(unfold(mean_spectra(tokens).mean(), 24)), THRESHOLDS)

    first, second = (np.stack([of(features[drawn]) for drawn in rng.integers(6, size=(30, 6))]) for _ in range(2))
    ends = of(features) + np.percentile(first - second, (2.5, 97.5), axis=0)
    found = dims_of_another_sample(images, of(features), 24, THRESHOLDS, 30, 4)
    assert list(found["low"].values()) == np.maximum(1, np.floor(ends[0])).tolist()
    assert list(found["high"].values()) == np.ceil(ends[1]).tolist()
    single = dims_of_one_image(images, THRESHOLDS)
    np.testing.assert_allclose(
        [list(end.values()) for end in single.values()],
        np.percentile(images.observed["full"], (2.5, 97.5), axis=0),
        atol=1e-6,
    )


def test_single_precision_changes_shares_by_rounding(features):
    exact, found = (shares(mean_spectra(features, precision).folded) for precision in (np.float64, np.float32))
    assert 0 < np.abs(found - exact).max() < 2e-7


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1e18, 1e30])
def test_tokens_whose_squares_single_precision_cannot_hold_have_the_same_spectra(features, scale):
    found = mean_spectra((features * scale).astype(np.float32), np.float32)
    assert found.zero_tokens == 0
    np.testing.assert_allclose(found.folded, mean_spectra(features).folded, rtol=1e-5)


def test_a_threshold_that_is_met_exactly_is_met_in_single_precision_too():
    """An impulse has a flat spectrum: of 20 bins, 19 hold exactly 95 %; of 40, 38."""
    for channels in (20, 40):
        features = np.zeros((3, 5, channels), np.float32)
        features[..., 0] = np.random.default_rng(0).uniform(0.5, 2, (3, 5))
        found = image_dims(features, [90, 95])
        bins = np.array([0.9, 0.95]) * channels
        np.testing.assert_array_equal(found.observed["full"], np.tile(bins.round().astype(int), (3, 1)))


def test_images_near_a_threshold_are_transformed_in_double_precision(features, monkeypatch):
    images: list[int] = []

    def counted(chunk, precision=np.float64):
        if precision == np.float64:
            images.append(len(chunk))
        return mean_spectra(chunk, precision)

    monkeypatch.setattr(spectra, "mean_spectra", counted)
    image_dims(features, THRESHOLDS)
    assert not images
    features[1] = 0
    features[1, :, 3] = 1.0  # flat: a share of exactly one half
    image_dims(features, THRESHOLDS)
    assert images == [1]


def test_chunks_change_nothing(features, monkeypatch):
    spectra, whole = mean_spectra(features).folded, moment(features)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2 * 8 * features[0].size)
    np.testing.assert_array_equal(mean_spectra(features).folded, spectra)
    np.testing.assert_array_equal(moment(features), whole)


@pytest.mark.parametrize("analysis", [mean_spectra, moment])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_refused_by_image(features, analysis, value):
    features[5, 8, 23] = value
    with pytest.raises(UserError, match="image 5"):
        analysis(features)
