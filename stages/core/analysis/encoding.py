"""The paper's three analyses of one set of tokens, as one flat row."""

from collections.abc import Sequence

import numpy as np

from stages.core.analysis import sep, svd
from stages.core.analysis.dims import dims, floors, participation_ratio, shares
from stages.core.analysis.pca import shared_basis


def measure(
    tokens: np.ndarray,
    *,
    svd_thresholds: Sequence[int],
    pca_thresholds: Sequence[int],
    sep_thresholds: Sequence[int],
    permutations: int,
    seed: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Sample-wise SVD, dataset PCA, SEP and participation ratios of one model's tokens.

    Args:
        tokens: [images, tokens, channels].
        svd_thresholds, pca_thresholds, sep_thresholds: percents.
        permutations: how many random orders of the channels, SEP's null model.
        seed: of the permutations.

    Returns:
        A row, and the floors of these tokens, [2, channels]. The row has for each threshold:

        * svd_95, svd_mean_95: dimensions of an image's own basis, the 99th percentile and the mean over images;
        * dataset_95, dataset_global_95: dimensions of the shared basis, the 99th percentile over images, and the
          number for all images together;
        * bandwidth_90, bandwidth_folded_90: b(α) of the mean SEP curve; with the prefix permuted_, its mean under
          random orders of the channels;

        and the participation ratios of an image's own spectrum (participation_image, mean over images) and of the
        shared one (participation_dataset).

    Raises:
        UserError: a feature is not finite.
    """
    own, shared, spectra = svd.energies(tokens), shared_basis(tokens), sep.mean_spectra(tokens)
    row: dict[str, float] = {}
    for name, energies, thresholds in (("svd", own, svd_thresholds), ("dataset", shared.energies, pca_thresholds)):
        per_image = dims(shares(energies), thresholds)
        row |= _named(name, np.percentile(per_image, 99, axis=0), thresholds)
        if name == "svd":
            row |= _named("svd_mean", per_image.mean(axis=0), thresholds)
    row |= _named("dataset_global", dims(shares(shared.eigenvalues), pca_thresholds), pca_thresholds)
    permuted = sep.permuted_spectra(sep.moment(tokens), permutations, seed)
    for name, unfold in (("bandwidth", True), ("bandwidth_folded", False)):
        mean, null = (
            sep.unfold(folded, tokens.shape[2]) if unfold else folded for folded in (spectra.mean(), permuted)
        )
        row |= _named(name, dims(shares(mean), sep_thresholds) / len(mean), sep_thresholds)
        under_null = dims(shares(null), sep_thresholds).mean(axis=0) / len(mean)
        row |= _named(f"permuted_{name}", under_null, sep_thresholds)
    row["participation_image"] = float(participation_ratio(own).mean())
    row["participation_dataset"] = float(participation_ratio(shared.eigenvalues))
    return row, floors(shared.eigenvalues, own.mean(axis=0))


def _named(name: str, values: np.ndarray, thresholds: Sequence[int]) -> dict[str, float]:
    return {f"{name}_{threshold}": float(value) for threshold, value in zip(thresholds, values, strict=True)}
