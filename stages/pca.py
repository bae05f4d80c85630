"""Dataset PCA of a backbone's last-block features, and over how many of its directions single tokens spread."""

import numpy as np

from stages import arguments, messages, missing
from stages.core.analysis.dims import by_threshold, dims, profile, shares, statistics
from stages.core.analysis.intervals import percentile_of_another_sample
from stages.core.analysis.nulls import fit_gaussian
from stages.core.analysis.participation import count, gaussian_spreads, ratio_percentiles, spread_metrics, token_spreads
from stages.core.analysis.pca import energies_along, principal_directions
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.config import params
from stages.core.features.store import describe, last_block
from stages.paths import EXTRACT, PARAMS, PCA


def main() -> None:
    """Write dims per image and token in the shared basis, the global dims, participation ratios, and energy curves."""
    analysis = params.load(PARAMS).analysis
    backbone = arguments.backbone(__doc__, analysis.backbones)
    if missing.passed_on(EXTRACT / backbone / missing.FILE, PCA / backbone):
        return
    settings = analysis.pca
    thresholds = settings.thresholds
    stage = f"pca {backbone}"
    messages.begin(stage, "the dims that each image's tokens need in the basis that all images share")
    tokens = last_block(EXTRACT / backbone)
    channels = tokens.shape[2]
    eigenvalues, basis = principal_directions(tokens)
    of_images = profile(energies_along(basis, tokens), thresholds)
    drawn = gaussian_spreads(
        fit_gaussian(tokens), basis, thresholds, tokens=settings.gaussian_tokens, seed=settings.seed
    )
    observed, gaussian = (
        count(spreads, channels, thresholds) for spreads in (token_spreads(tokens, basis, thresholds), drawn)
    )
    metrics = {
        **describe(EXTRACT / backbone),
        "thresholds": thresholds,
        **statistics(of_images.dims, thresholds),
        "another_sample": percentile_of_another_sample(of_images.dims, thresholds, settings.resamples, settings.seed),
        "dims_global": by_threshold(dims(shares(eigenvalues), thresholds), thresholds),
        **spread_metrics(observed, gaussian, thresholds),
    }
    with atomic_folder(PCA / backbone) as folder:
        write_npy(folder / "dims.npy", of_images.dims.astype(np.int32))  # [images, thresholds]
        write_npy(folder / "curve.npy", of_images.curve)  # mean share of the first d directions
        write_npy(folder / "captured.npy", of_images.captured)  # [percentiles over images, directions]
        write_npy(folder / "eigenvalues.npy", eigenvalues)
        write_npy(folder / "basis.npy", basis)  # [channels, directions]
        # percentiles 0 … 100 over tokens, [(channels, pca), (observed, gaussian), 101]
        write_npy(folder / "participation.npy", ratio_percentiles(observed, gaussian))
        write_json(folder / "metrics.json", metrics)
    messages.end(stage, messages.energy_dims(metrics["dims_p99"], channels), PCA / backbone)


if __name__ == "__main__":
    run(main)
