"""Over how many coordinates a single token's energy is spread, whatever their order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.core.analysis.dims import (
    PERCENTILES,
    dims,
    participation_ratio,
    percentiles_of_counts,
    shares,
    summary_of_counts,
)
from stages.core.analysis.nulls import Gaussian
from stages.core.features.store import chunks

BASES = ("channels", "shared")
ORDERS = ("leading", "fewest")
RATIO_UNIT = 1e-3  # participation ratios are rounded to it before they are counted
BATCH = 1000  # tokens of the Gaussian null model at a time


@dataclass(frozen=True)
class TokenSpread:
    """Over how many coordinates each token's energy spreads; tokens that are 0 are left out.

    Attributes:
        ratios: participation ratios over the channels and over the directions of a basis, [tokens, 2].
        dims: number of directions that hold each share of the energy: of the first ones of the basis, and of the
            fewest possible, chosen for each token, [tokens, 2, thresholds].
    """

    ratios: np.ndarray
    dims: np.ndarray


def token_spreads(features: np.ndarray, basis: np.ndarray, thresholds: Sequence[int]) -> Iterator[TokenSpread]:
    """Measure each token in its own channels and in a basis, a chunk of images at a time.

    Args:
        features: [images, tokens, channels].
        basis: orthonormal directions, one a column, [channels, channels].
        thresholds: percents.

    Raises:
        UserError: a feature is not finite.
    """
    for chunk in chunks(features):
        tokens = chunk.reshape(-1, chunk.shape[2])
        tokens = tokens[np.einsum("tc,tc->t", tokens, tokens) > 0]
        tokens = tokens / np.abs(tokens).max(axis=1, keepdims=True)  # squares of squares stay in range
        directions = np.square(tokens @ basis)
        ratios = np.stack([participation_ratio(np.square(tokens)), participation_ratio(directions)], axis=1)
        largest_first = np.sort(directions, axis=1)[:, ::-1]
        orders = (directions, largest_first)
        yield TokenSpread(ratios, np.stack([dims(shares(energies), thresholds) for energies in orders], axis=1))


def gaussian_spreads(
    gaussian: Gaussian, basis: np.ndarray, thresholds: Sequence[int], *, tokens: int, seed: int
) -> Iterator[TokenSpread]:
    """The same for independent Gaussian tokens: the spread that follows from mean and covariance alone."""
    drawn = gaussian.sample(tokens, seed)
    for start in range(0, tokens, BATCH):
        yield from token_spreads(drawn[None, start : start + BATCH], basis, thresholds)


@dataclass(frozen=True)
class SpreadCounts:
    """How many tokens have each spread, which takes the same memory for any number of tokens.

    Attributes:
        ratios: tokens with each participation ratio, in multiples of RATIO_UNIT, [2, multiples].
        dims: tokens with each number of dims from 0 on, [2, thresholds, channels + 1].
    """

    ratios: np.ndarray
    dims: np.ndarray


def count(spreads: Iterable[TokenSpread], channels: int, thresholds: Sequence[int]) -> SpreadCounts:
    """Count the tokens of several sets of the same number of channels; ratios are rounded to RATIO_UNIT."""
    ratios = np.zeros((len(BASES), round(channels / RATIO_UNIT) + 1), dtype=np.int64)
    counts = np.zeros((len(ORDERS), len(thresholds), channels + 1), dtype=np.int64)
    for spread in spreads:
        for column, multiples in enumerate(np.rint(spread.ratios / RATIO_UNIT).astype(np.int64).T):
            ratios[column] += np.bincount(multiples, minlength=ratios.shape[1])
        for place in np.ndindex(counts.shape[:2]):
            counts[place] += np.bincount(spread.dims[:, *place], minlength=channels + 1)
    return SpreadCounts(ratios, counts)


def spread_metrics(observed: SpreadCounts, gaussian: SpreadCounts, thresholds: Sequence[int]) -> dict[str, Any]:
    """Mean, median, 5th and 95th percentile over tokens, observed and of the Gaussian null model.

    Returns:
        tokens_with_energy; participation_ratio by basis; token_dims by order and threshold; each of the latter two a
        mapping of "observed" and "gaussian".
    """
    both = {"observed": observed, "gaussian": gaussian}
    return {
        "tokens_with_energy": int(observed.ratios[0].sum()),
        "gaussian_tokens": int(gaussian.ratios[0].sum()),
        "participation_ratio": {
            basis: {name: summary_of_counts(of.ratios[row], RATIO_UNIT) for name, of in both.items()}
            for row, basis in enumerate(BASES)
        },
        "token_dims": {
            order: {
                str(threshold): {name: summary_of_counts(of.dims[row, column]) for name, of in both.items()}
                for column, threshold in enumerate(thresholds)
            }
            for row, order in enumerate(ORDERS)
        },
    }


def ratio_percentiles(observed: SpreadCounts, gaussian: SpreadCounts) -> np.ndarray:
    """The percentiles 0 … 100 of the participation ratios, [bases, (observed, gaussian), 101]."""
    pairs = [[percentiles_of_counts(of.ratios[row], PERCENTILES) for of in (observed, gaussian)] for row in range(2)]
    return np.array(pairs) * RATIO_UNIT
