"""The analyses against their textbook definitions: equal results, in a fraction of the time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from stages.core.analysis.dims import dims, shares
from stages.core.analysis.permutation import SEED, shifts
from stages.core.analysis.spectra import image_dims, mean_spectra, moment, permuted_spectra, unfold
from stages.core.analysis.svd import energies
from stages.core.runtime.machine import cores

THRESHOLDS = [80, 90, 95, 99]


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """As many as a CaiT-S24 gives on 100 images, with a falling spectrum."""
    rng = np.random.default_rng(0)
    falling = np.linalg.qr(rng.normal(size=(384, 384)))[0] * 0.98 ** np.arange(384)
    return (rng.normal(size=(100, 196, 384)) @ falling.T).astype(np.float32)


def best_time(function: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def textbook_svd(tokens: np.ndarray) -> np.ndarray:
    found = []
    for image in tokens:
        _, values, _ = np.linalg.svd(image.astype(np.float64), full_matrices=False)
        share = np.cumsum(values**2) / np.sum(values**2)
        found.append([np.argmax(share >= threshold / 100) + 1 for threshold in THRESHOLDS])
    return np.array(found)


def textbook_sep(tokens: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.fft(tokens.astype(np.complex128), axis=-1)) ** 2
    curves = np.cumsum(power, axis=-1) / power.sum(axis=-1, keepdims=True)
    return curves.mean(axis=(0, 1))


def test_svd(benchmark, tokens):
    found = benchmark.pedantic(lambda: dims(shares(energies(tokens)), THRESHOLDS), rounds=5, warmup_rounds=1)
    np.testing.assert_array_equal(found, textbook_svd(tokens))
    ratio = best_time(lambda: textbook_svd(tokens), rounds=2) / benchmark.stats.stats.min
    benchmark.extra_info["times as fast as the textbook"] = round(ratio, 1)
    assert ratio >= 8


def test_sep(benchmark, tokens):
    """The mean curve, as stage `sep` computes it beside each image's dims."""
    found = benchmark.pedantic(
        lambda: shares(unfold(image_dims(tokens, THRESHOLDS).mean, tokens.shape[2])), rounds=5, warmup_rounds=1
    )
    np.testing.assert_allclose(found, textbook_sep(tokens), atol=1e-6)
    ratio = best_time(lambda: textbook_sep(tokens), rounds=3) / benchmark.stats.stats.min
    benchmark.extra_info["times as fast as the textbook"] = round(ratio, 1)
    assert ratio >= 4


def test_permutations(benchmark, tokens):
    """1,000 orders of the tokens of 1,000 images, against transforming all of them again for every order.

    The second, hours of work, is timed on one order of 100 images and scaled by 1,000 orders and ten times the images.
    """
    images, permutations, seed = 1000, 1000, 0
    many = np.tile(tokens, (images // len(tokens), 1, 1))
    found = benchmark.pedantic(lambda: permuted_spectra(moment(many), permutations, seed), rounds=1)
    rng = np.random.default_rng(seed)
    for spectrum in found[:3]:
        order = rng.permutation(tokens.shape[2])
        expected = textbook_sep(tokens[..., order])  # ten copies of the same images have the same mean
        np.testing.assert_allclose(shares(unfold(spectrum, tokens.shape[2])), expected, atol=1e-6)
    again = best_time(lambda: mean_spectra(tokens[..., order]), rounds=2) * permutations * images / len(tokens)
    ratio = again / benchmark.stats.stats.min
    benchmark.extra_info["times as fast as transforming the tokens again (scaled)"] = round(ratio, 1)
    assert benchmark.stats.stats.min <= 30
    assert ratio >= 100


def test_the_releases_permutations(benchmark, tokens):
    """Each of 20 images under 100 orders, against transforming its tokens in double precision for every order."""
    some, channels = tokens[:20], tokens.shape[2]
    thresholds = [50, 60, 70, 80, 90]
    rng = np.random.default_rng(SEED)
    orders = [np.arange(channels), *(rng.permutation(channels) for _ in range(100))]

    def in_double() -> np.ndarray:
        def of_image(image: np.ndarray) -> np.ndarray:
            folded = np.concatenate([mean_spectra(image[None, :, order]).folded for order in orders])
            return dims(shares(unfold(folded, channels)), thresholds)

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores()) as pool:
            return np.stack(list(pool.map(of_image, some.astype(np.float64)))) / channels

    found = benchmark.pedantic(lambda: shifts(some, thresholds), rounds=5, warmup_rounds=1)
    expected = in_double()
    np.testing.assert_array_equal(found.observed, expected[:, 0])
    np.testing.assert_array_equal(found.permuted, expected[:, 1:].mean(axis=1))
    ratio = best_time(in_double, rounds=3) / benchmark.stats.stats.min
    benchmark.extra_info["times as fast as in double precision"] = round(ratio, 1)
    assert ratio >= 3
