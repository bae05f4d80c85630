"""Dataset PCA of a backbone's last-block features."""

import numpy as np

from stages import arguments
from stages.core import params
from stages.core.arrays import write_npy
from stages.core.energy import by_threshold, dims, shares, statistics
from stages.core.errors import run
from stages.core.features import describe, last_block
from stages.core.files import atomic_folder, write_json
from stages.core.pca import shared_basis
from stages.paths import EXTRACT, PCA


def main() -> None:
    """Write dims per image in the shared basis, the global dims, and the mean energy curve."""
    given = params.load().analysis
    backbone = arguments.backbone(__doc__, given.backbones)
    thresholds = given.pca.thresholds
    tokens = last_block(EXTRACT / backbone)
    basis = shared_basis(tokens)
    cumulative = shares(basis.energies)
    per_image = dims(cumulative, thresholds)
    metrics = {
        **describe(EXTRACT / backbone),
        "thresholds": thresholds,
        **statistics(per_image, thresholds),
        "dims_global": by_threshold(dims(shares(basis.eigenvalues), thresholds), thresholds),
    }
    with atomic_folder(PCA / backbone) as folder:
        write_npy(folder / "dims.npy", per_image.astype(np.int32))  # [images, thresholds]
        write_npy(folder / "curve.npy", cumulative.mean(axis=0))  # mean share of the first d directions
        write_npy(folder / "eigenvalues.npy", basis.eigenvalues)
        write_npy(folder / "basis.npy", basis.basis)  # [channels, directions]
        write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)
