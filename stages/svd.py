"""Sample-wise SVD of a backbone's features, for every block that was extracted."""

import numpy as np

from stages import arguments
from stages.core.analysis import svd
from stages.core.analysis.energy import profile, statistics
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.config import params
from stages.core.features.store import blocks, chunks, describe
from stages.paths import EXTRACT, PARAMS, SVD


def main() -> None:
    """Write dims per image and block, and the mean energy curve of the last block."""
    given = params.load(PARAMS).analysis
    backbone = arguments.backbone(__doc__, given.backbones)
    thresholds = given.svd.thresholds
    per_block, by_block = [], []
    for block, tokens in blocks(EXTRACT / backbone).items():
        found = profile(map(svd.energies, chunks(tokens)), thresholds)
        per_block.append(found.dims)
        shape = {"tokens": tokens.shape[1], "channels": tokens.shape[2]}
        by_block.append({"block": block, **shape, **statistics(per_block[-1], thresholds)})
    metrics = {
        **describe(EXTRACT / backbone),
        "thresholds": thresholds,
        **statistics(per_block[-1], thresholds),
        "blocks": by_block,
    }
    with atomic_folder(SVD / backbone) as folder:
        write_npy(folder / "dims.npy", np.stack(per_block).astype(np.int32))  # [blocks, images, thresholds]
        write_npy(folder / "curve.npy", found.curve)  # mean share of the first d dimensions
        write_npy(folder / "spectrum.npy", found.spectrum)  # energy of each dimension, mean over images
        write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)
