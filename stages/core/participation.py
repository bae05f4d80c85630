"""How many coordinates a single token's energy is spread over, whatever their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.core.energy import PERCENTILES, dims, participation_ratio, shares, summary
from stages.core.features import chunks
from stages.core.nulls import Gaussian

BASES = ("channels", "pca")
ORDERS = ("leading", "fewest")
BATCH = 1000  # tokens of the Gaussian null in one pass


@dataclass(frozen=True)
class TokenSpread:
    """How far each token's energy spreads; tokens without energy are left out.

    Attributes:
        ratios: participation ratios over the channels and over the directions of a basis, [tokens, 2].
        dims: directions that hold each share of the energy: counted from the first direction of the basis on, and
            the fewest of any, chosen for each token, [tokens, 2, thresholds].
    """

    ratios: np.ndarray
    dims: np.ndarray


def token_spread(features: np.ndarray, basis: np.ndarray, thresholds: Sequence[int]) -> TokenSpread:
    """Measure each token in its own channels and in a basis.

    Args:
        features: [images, tokens, channels].
        basis: orthonormal directions, one a column, [channels, channels].
        thresholds: percents.

    Raises:
        UserError: a feature is not finite.
    """
    ratios, counts = [], []
    for chunk in chunks(features):
        tokens = chunk.reshape(-1, chunk.shape[2])
        tokens = tokens[np.einsum("tc,tc->t", tokens, tokens) > 0]
        tokens = tokens / np.abs(tokens).max(axis=1, keepdims=True)  # squares of squares stay in range
        directions = np.square(tokens @ basis)
        ratios.append(np.stack([participation_ratio(np.square(tokens)), participation_ratio(directions)], axis=1))
        largest_first = np.sort(directions, axis=1)[:, ::-1]
        orders = (directions, largest_first)
        counts.append(np.stack([dims(shares(energies), thresholds) for energies in orders], axis=1))
    return TokenSpread(np.concatenate(ratios), np.concatenate(counts))


def gaussian_spread(
    gaussian: Gaussian, basis: np.ndarray, thresholds: Sequence[int], *, tokens: int, seed: int
) -> TokenSpread:
    """The same of independent Gaussian tokens: what mean and covariance alone make of it."""
    drawn = gaussian.sample(tokens, seed)
    whole = len(drawn) // BATCH * BATCH
    parts = [part.reshape(-1, size, drawn.shape[1]) for part, size in ((drawn[:whole], BATCH), (drawn[whole:], 1))]
    spreads = [token_spread(part, basis, thresholds) for part in parts if part.size]
    return TokenSpread(*(np.concatenate([getattr(part, name) for part in spreads]) for name in ("ratios", "dims")))


def spread_metrics(observed: TokenSpread, gaussian: TokenSpread, thresholds: Sequence[int]) -> dict[str, Any]:
    """Mean, median and 5 % and 95 % percentiles over tokens, observed and of the Gaussian null.

    Returns:
        tokens_with_energy; participation_ratio by basis; token_dims by order and threshold; each of the latter two a
        mapping of "observed" and "gaussian".
    """
    both = {"observed": observed, "gaussian": gaussian}
    return {
        "tokens_with_energy": len(observed.ratios),
        "gaussian_tokens": len(gaussian.ratios),
        "participation_ratio": {
            basis: {name: summary(of.ratios[:, column]) for name, of in both.items()}
            for column, basis in enumerate(BASES)
        },
        "token_dims": {
            order: {
                str(threshold): {name: summary(of.dims[:, row, column]) for name, of in both.items()}
                for column, threshold in enumerate(thresholds)
            }
            for row, order in enumerate(ORDERS)
        },
    }


def ratio_percentiles(observed: TokenSpread, gaussian: TokenSpread) -> np.ndarray:
    """The percentiles 0 … 100 of the participation ratios, [bases, (observed, gaussian), 101]."""
    pairs = [[of.ratios[:, column] for of in (observed, gaussian)] for column in range(len(BASES))]
    return np.stack([np.stack([np.percentile(values, PERCENTILES) for values in pair]) for pair in pairs])
