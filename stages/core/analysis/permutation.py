"""How a random order of the channels moves each image's bandwidth: the release's permutation statistic.

Where `stages.core.analysis.nulls` asks of the mean curve whether the observed order is one like any other, this is an
average over images: b of the permuted order minus b of the observed one, over the full spectrum.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when they are used: `check` imports the analyses, and has no use for any
from threadpoolctl import threadpool_limits

from stages.core.analysis import intervals, spectra
from stages.core.analysis.dims import by_threshold, dims, shares
from stages.core.features.store import chunks
from stages.core.runtime.machine import cores

ORDERS = 100  # of the channels, as many as the release draws,
SEED = 2026  # and from its seed: numpy's default generator gives the same ones


@dataclass(frozen=True)
class Shifts:
    """Bandwidths b(α) of each image's mean SEP curve over the full spectrum; images without energy are left out.

    Attributes:
        observed: in the observed order, [images, thresholds].
        permuted: mean over random orders, [images, thresholds].
        by_order: mean over images of permuted minus observed, [orders, thresholds].
        distance: mean over bins of |mean permuted curve − mean observed curve|, [orders]: the release's L1 distance.
    """

    observed: np.ndarray
    permuted: np.ndarray
    by_order: np.ndarray
    distance: np.ndarray


def shifts(features: np.ndarray, thresholds: list[int], *, orders: int = ORDERS, seed: int = SEED) -> Shifts:
    """Measure each image under the same random orders of its channels.

    Transforms are in single precision, and in double precision for orders under which rounding could change dims.

    Args:
        features: [images, tokens, channels].
        thresholds: percents.
        orders: how many random orders.
        seed: of the orders.

    Raises:
        UserError: a feature is not finite.
    """
    channels = features.shape[2]
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.arange(channels), *(rng.permutation(channels) for _ in range(orders))])  # the observed first

    def of_image(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if not tokens.any():
            return None
        curves = shares(_full_spectra(tokens, drawn))
        if (near := spectra.near([curves], thresholds)).any():
            again = [spectra.mean_spectra(tokens[None, :, order]).folded for order in drawn[near]]
            curves[near] = shares(spectra.unfold(np.concatenate(again), channels))
        return dims(curves, thresholds) / channels, curves

    reached: list[np.ndarray] = []
    total = np.zeros((1 + orders, channels))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores()) as pool:  # an image per core at a time
        for chunk in chunks(features):
            for found in pool.map(of_image, chunk):
                if found is not None:
                    reached.append(found[0])
                    total += found[1]
    bandwidths = np.array(reached).reshape(len(reached), 1 + orders, len(thresholds))
    observed, permuted = bandwidths[:, 0], bandwidths[:, 1:]
    mean = total / max(1, len(reached))
    return Shifts(
        observed=observed,
        permuted=permuted.mean(axis=1),
        by_order=(permuted - observed[:, None]).mean(axis=0),
        distance=np.abs(mean[1:] - mean[0]).mean(axis=1),
    )


def _full_spectra(tokens: np.ndarray, orders: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The mean normalised power spectrum of an image's tokens under each order of their channels, single precision.

    Two real tokens x and y share one transform, Z = DFT(x + iy): |Z_k|² + |Z_(D-k)|² = 2 (|X_k|² + |Y_k|²).
    Channels lead, so that a transform runs over many tokens at once and an order only moves whole rows.

    Args:
        tokens: [tokens, channels] in float64, at least one of them not 0.
        orders: [orders, channels].

    Returns:
        Full spectra, not divided by the number of tokens, [orders, channels].
    """
    energies = np.einsum("tc,tc->t", tokens, tokens)
    kept = tokens[energies > 0] / np.sqrt(energies[energies > 0, None])
    half = (len(kept) + 1) // 2
    pairs = np.zeros((tokens.shape[1], half), np.complex64)
    pairs.real, pairs.imag[:, : len(kept) - half] = kept[:half].T, kept[half:].T
    spectra = np.empty((len(orders), len(pairs)))
    for place, order in enumerate(orders):
        parts = scipy.fft.fft(pairs.take(order, axis=0), axis=0, overwrite_x=True).view(np.float32)  # real, imaginary
        spectra[place] = np.einsum("kt,kt->k", parts, parts)
    return spectra + np.roll(spectra[:, ::-1], 1, axis=1)


def shift_metrics(found: Shifts, thresholds: list[int], *, resamples: int, seed: int) -> dict[str, Any]:
    """What is reported of `shifts`.

    Args:
        found: of one backbone.
        thresholds: percents.
        resamples, seed: of the images, for the bootstrap intervals of the means (none of a single image).

    Returns:
        orders; by threshold, as shares of the bins, the means over images `observed`, `permuted` and `shift`
        (permuted − observed, also the mean over the orders), the percentiles `shift_p5` and `shift_p95` over the
        orders, and the ends `shift_low` and `shift_high` of the 95 % interval over images; `distance_mean` and
        `distance_std` over the orders.
    """
    means = {
        "observed": found.observed.mean(axis=0),
        "permuted": found.permuted.mean(axis=0),
        "shift": found.by_order.mean(axis=0),
    }
    means["shift_p5"], means["shift_p95"] = np.percentile(found.by_order, (5, 95), axis=0)
    means["shift_low"], means["shift_high"] = intervals.of_means(found.permuted - found.observed, resamples, seed)
    return {
        "orders": len(found.by_order),
        **{name: by_threshold(values, thresholds) for name, values in means.items()},
        "distance_mean": round(float(found.distance.mean()), 6),
        "distance_std": round(float(found.distance.std()), 6),
    }
