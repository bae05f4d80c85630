"""Power spectra of single tokens over their channels, and their cumulative shares: what the SEP is made of.

For a token x of D channels, F = |DFT(x)|² and SEP(d) = Σ_{k≤d} F_k / Σ F in frequency order, averaged over
tokens. Two spectra:

* full: all D bins, as the authors' release computes it. For real x, F_k = F_{D-k}: the curve is symmetric
  and reaches one half near D/2 for any x.
* folded: the ⌊D/2⌋+1 distinct bins; F_k and F_{D-k} are added, so that the total energy is the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when they are used: `check` imports the analyses, and has no use for any

from stages.core.analysis.dims import TIE, by_threshold, dims, shares
from stages.core.analysis.intervals import TAILS, by_end, of_another_sample
from stages.core.analysis.nulls import permutation_expectation
from stages.core.features.store import chunks
from stages.core.runtime.machine import cores

NEAR = 1e-6  # a share nearer to a threshold is computed in double precision: single precision errs by 1e-7 at most
SAFE = (1e-20, 1e20)  # energies of tokens whose spectra neither underflow nor overflow in single precision
BATCH = 4  # images that are transformed together: enough for several cores, few enough for their caches


@dataclass(frozen=True)
class MeanSpectra:
    """Normalised power spectra, averaged over the tokens of each image.

    Attributes:
        folded: each image's mean folded spectrum, [images, ⌊D/2⌋+1]; it sums to 1, or to 0 for an image all of whose
            tokens are 0.
        tokens: non-zero tokens of each image, [images].
        zero_tokens: tokens that are 0, which are left out.
    """

    folded: np.ndarray
    tokens: np.ndarray
    zero_tokens: int

    def mean(self) -> np.ndarray:
        """The mean folded spectrum over all non-zero tokens, [⌊D/2⌋+1]."""
        return self.tokens @ self.folded / max(1, self.tokens.sum())


def mean_spectra(features: np.ndarray, precision: type[np.floating] = np.float64) -> MeanSpectra:
    """Average the tokens' normalised power spectra |DFT(x)|² / Σ|DFT(x)|² over each image.

    By Parseval's theorem Σ F = D ‖x‖²: dividing by the token's energy normalises its spectrum, and the sum over
    tokens is one matrix product.

    Args:
        features: [images, tokens, channels].
        precision: of the transforms. float32 takes a third of the time, and a spectrum's cumulative shares err by about
            1e-7; tokens whose squares it cannot hold are transformed in float64.

    Raises:
        UserError: a feature is not finite.
    """
    folded, counts, channels = [], [], features.shape[-1]
    for tokens, energies in _batches(features, precision):
        if tokens.dtype == np.float32 and not (SAFE[0] < energies.min() and energies.max() < SAFE[1]):
            tokens = tokens.astype(np.float64)
            energies = _energies(tokens)
        weights = np.divide(1.0, energies, out=np.zeros_like(energies), where=energies > 0)
        squares = scipy.fft.rfft(tokens, axis=-1, workers=cores()).view(
            tokens.dtype
        )  # real and imaginary parts in turn
        np.square(squares, out=squares)
        sums = (weights[:, None] @ squares)[:, 0].astype(np.float64) / channels
        used = np.count_nonzero(energies, axis=1)
        folded.append(_add_mirrored(sums[:, ::2] + sums[:, 1::2], channels) / np.maximum(1, used)[:, None])
        counts.append(used)
    used = np.concatenate(counts)
    return MeanSpectra(np.concatenate(folded), used, int(features.shape[0] * features.shape[1] - used.sum()))


def moment(features: np.ndarray) -> np.ndarray:
    """M = mean of x xᵀ / ‖x‖² over all non-zero tokens, [D, D], with trace 1.

    It determines the mean spectrum of all tokens under any order of their channels.

    Raises:
        UserError: a feature is not finite.
    """
    channels = features.shape[2]
    total, used = np.zeros((channels, channels)), 0
    for tokens, energies in _images(features):
        kept = tokens[energies > 0] / np.sqrt(energies[energies > 0, None])
        total += kept.T @ kept
        used += len(kept)
    return total / max(1, used)


def spectrum_of_moment(moment: np.ndarray) -> np.ndarray:
    """The mean folded spectrum of tokens with moment M: diag(W M Wᴴ) / D with W the DFT matrix.

    diag(W M Wᴴ) is the DFT of the sums along M's cyclic diagonals, which costs O(D²) instead of O(D³).

    Args:
        moment: [D, D].

    Returns:
        [⌊D/2⌋+1], summing to M's trace.
    """
    size = len(moment)
    doubled = np.concatenate([moment, moment], axis=1)  # row a, column a + lag: no wrapping around
    rows, columns = doubled.strides
    diagonals = np.lib.stride_tricks.as_strided(doubled, (size, size), (rows + columns, columns), writeable=False)
    return _add_mirrored(scipy.fft.rfft(diagonals.sum(axis=0)).real / size, size)


def permuted_spectra(moment: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Mean folded spectra of the same tokens under random orders of their channels.

    The order of a network's channels is arbitrary: only what differs from these spectra is a property of the order.

    Args:
        moment: M of the tokens, [D, D].
        permutations: how many random orders.
        seed: of the orders.

    Returns:
        [permutations, ⌊D/2⌋+1].
    """
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(moment)) for _ in range(permutations))
    return np.stack([spectrum_of_moment(moment[np.ix_(order, order)]) for order in orders])


@dataclass(frozen=True)
class ImageDims:
    """The mean spectrum of all tokens, and the dims of each image's mean spectrum.

    Attributes:
        mean: folded spectrum over all non-zero tokens, [⌊D/2⌋+1]; its cumulative shares err by about 1e-7.
        zero_tokens: tokens that are 0, which are left out.
        folded: mean folded spectrum of each image's non-zero tokens in float32, [images, ⌊D/2⌋+1].
        tokens: non-zero tokens of each image, [images].
        observed: by spectrum (folded, full): dims of each image's mean spectrum, [images, thresholds].
        expected: the same of its expected spectrum under random orders of the channels.
    """

    mean: np.ndarray
    zero_tokens: int
    folded: np.ndarray
    tokens: np.ndarray
    observed: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]

    @property
    def with_energy(self) -> np.ndarray:
        """Whether an image has a non-zero token, [images]."""
        return self.tokens > 0


def image_dims(features: np.ndarray, thresholds: Sequence[int]) -> ImageDims:
    """Reduce each image's mean spectrum to its dims, a chunk of images at a time.

    Transforms are in single precision, and in double precision for images whose dims rounding could change.

    Args:
        features: [images, tokens, channels].
        thresholds: percents.

    Raises:
        UserError: a feature is not finite.
    """
    channels = features.shape[2]
    counts: list[np.ndarray] = []
    folded: list[np.ndarray] = []
    reached: dict[tuple[str, str], list[np.ndarray]] = {}
    total, zero_tokens = np.zeros(channels // 2 + 1), 0
    for chunk in chunks(features, np.float32):
        spectra = mean_spectra(chunk, np.float32)
        curves = _curves(spectra.folded, channels)
        if (unsure := near(curves.values(), thresholds)).any():
            spectra.folded[unsure] = mean_spectra(chunk[unsure]).folded
            curves = _curves(spectra.folded, channels)
        total += spectra.tokens @ spectra.folded
        zero_tokens += spectra.zero_tokens
        counts.append(spectra.tokens)
        folded.append(spectra.folded.astype(np.float32))
        for key, cumulative in curves.items():
            reached.setdefault(key, []).append(dims(cumulative, thresholds))
    used = np.concatenate(counts)
    observed, expected = (
        {name: np.concatenate(reached[kind, name]) for name in ("folded", "full")} for kind in ("observed", "expected")
    )
    return ImageDims(total / max(1, used.sum()), zero_tokens, np.concatenate(folded), used, observed, expected)


def dims_of_another_sample(
    images: ImageDims, measured: Sequence[float], channels: int, thresholds: Sequence[int], resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """Where the dims of another sample's mean SEP curve (full spectrum) fall: `intervals.of_another_sample`.

    Args:
        images: of this sample.
        measured: the dims of its mean curve, by threshold.
        channels: D.
        thresholds: percents.
        resamples, seed: of the images.

    Returns:
        "low" and "high", each by threshold.
    """

    def statistic(drawn: np.ndarray) -> np.ndarray:
        count = len(images.tokens)
        times = np.stack([np.bincount(one, minlength=count) for one in drawn]) * images.tokens.astype(np.float32)
        return dims(shares(unfold(times @ images.folded, channels)), thresholds)

    ends = of_another_sample(np.array(measured), statistic, len(images.tokens), resamples=resamples, seed=seed)
    return by_end(ends, thresholds)


def dims_of_one_image(images: ImageDims, thresholds: Sequence[int]) -> dict[str, dict[str, float]]:
    """The percentiles 2.5 and 97.5 over images of the dims of single images (full spectrum): "low" and "high"."""
    return by_end(np.percentile(images.observed["full"][images.with_energy], TAILS, axis=0), thresholds)


def _curves(folded: np.ndarray, channels: int) -> dict[tuple[str, str], np.ndarray]:
    """Cumulative shares of each image's spectrum, observed and expected under random orders, folded and full."""
    spectra = {"observed": folded, "expected": permutation_expectation(folded[:, 0], channels)}
    return {
        (kind, name): shares(of)
        for kind, half in spectra.items()
        for name, of in (("folded", half), ("full", unfold(half, channels)))
    }


def near(curves: Iterable[np.ndarray], thresholds: Sequence[int]) -> np.ndarray:
    """Which curves have a share so near to a threshold that rounding in single precision could change their dims.

    Args:
        curves: kinds of cumulative shares of the same images (or orders), each [images, bins].
        thresholds: percents.

    Returns:
        [images]: whether any of an image's curves is so.
    """
    levels = np.asarray(thresholds)[:, None] / 100
    return np.any([(np.abs(of[:, None] - levels) < NEAR).any((1, 2)) for of in curves], axis=0)


def token_std(features: np.ndarray) -> dict[str, np.ndarray]:
    """Standard deviation (population) of SEP(d) over all non-zero tokens.

    Args:
        features: [images, tokens, channels].

    Returns:
        By spectrum: folded [⌊D/2⌋+1] and full [D]. All 0 without a non-zero token.

    Raises:
        UserError: a feature is not finite.
    """
    channels, used = features.shape[2], 0
    sums = {"folded": np.zeros((2, channels // 2 + 1)), "full": np.zeros((2, channels))}  # of SEP and of its square
    for tokens, energies in _images(features):
        half = scipy.fft.rfft(tokens[energies > 0], axis=-1)
        folded = _add_mirrored(half.real**2 + half.imag**2, channels)
        for name, of in (("folded", folded), ("full", unfold(folded, channels))):
            cumulative = shares(of)
            sums[name] += cumulative.sum(axis=0), np.square(cumulative).sum(axis=0)
        used += len(half)
    moments = {name: of / max(1, used) for name, of in sums.items()}
    variances = {name: square - mean**2 for name, (mean, square) in moments.items()}
    return {name: np.sqrt(np.where(of > TIE, of, 0.0)) for name, of in variances.items()}  # below it is rounding


@dataclass(frozen=True)
class Pattern:
    """The Spectral Energy Pattern of a set of tokens under one spectrum.

    Attributes:
        metrics: bins; dims and bandwidth (dims / bins) at each threshold, and the mean bandwidth under
            permuted channels.
        curve: mean energy share of the first d frequencies: observed, then the mean, the 5th and the 95th
            percentile under permuted channels, [4, bins].
    """

    metrics: dict[str, Any]
    curve: np.ndarray


def pattern(mean: np.ndarray, permuted: np.ndarray, thresholds: Sequence[int]) -> Pattern:
    """The pattern of mean spectra: b(α) is the smallest d with SEP(d) ≥ α, divided by the number of bins.

    Args:
        mean: over all tokens, [bins].
        permuted: over all tokens under random orders of the channels, [permutations, bins].
        thresholds: percents.
    """
    bins = len(mean)
    observed, null = shares(mean), shares(permuted)
    reached = dims(observed, thresholds)
    return Pattern(
        metrics={
            "bins": bins,
            "dims": by_threshold(reached, thresholds),
            "bandwidth": by_threshold(reached / bins, thresholds),
            "permuted_bandwidth": by_threshold(dims(null, thresholds).mean(axis=0) / bins, thresholds),
        },
        curve=np.stack([observed, null.mean(axis=0), *np.percentile(null, (5, 95), axis=0)]),
    )


def unfold(folded: np.ndarray, channels: int) -> np.ndarray:
    """The full spectrum of D bins from the folded one, [..., ⌊D/2⌋+1] to [..., D]."""
    mirrored = folded[..., 1 : (channels + 1) // 2]
    half = folded.copy()
    half[..., 1 : (channels + 1) // 2] = mirrored / 2
    return np.concatenate([half, mirrored[..., ::-1] / 2], axis=-1)


def _add_mirrored(half: np.ndarray, channels: int) -> np.ndarray:
    """The folded spectrum from the bins 0 … ⌊D/2⌋: a bin with a mirror image counts twice."""
    folded = half.copy()
    folded[..., 1 : (channels + 1) // 2] *= 2
    return folded


def _batches(
    features: np.ndarray, precision: type[np.floating] = np.float64
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A few images' tokens [images, tokens, D] at a time, and their energies ‖x‖² [images, tokens]."""
    for chunk in chunks(features, precision):
        for start in range(0, len(chunk), BATCH):
            tokens = chunk[start : start + BATCH]
            yield tokens, _energies(tokens)


def _energies(tokens: np.ndarray) -> np.ndarray:
    return np.einsum("itc,itc->it", tokens, tokens)


def _images(features: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each image's tokens [tokens, D] in float64, and their energies ‖x‖² [tokens]."""
    for batch in _batches(features):
        yield from zip(*batch, strict=True)
