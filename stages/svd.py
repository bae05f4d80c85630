"""Sample-wise SVD of a backbone's features: of every block that was extracted, or of the last one."""

import numpy as np

from stages import arguments, messages, missing
from stages.core.analysis import svd
from stages.core.analysis.dims import profile, statistics, statistics_of
from stages.core.analysis.intervals import percentile_of_another_sample
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, read_json, write_json
from stages.core.config import params
from stages.core.features.store import RECORD, blocks, describe
from stages.paths import EXTRACT, PARAMS, SVD


def main() -> None:
    """Write dims per image and block; of the last block also ranks, energy curves and the mean spectrum."""
    analysis = params.load(PARAMS).analysis
    backbone = arguments.backbone(__doc__, analysis.backbones)
    if missing.passed_on(EXTRACT / backbone / missing.FILE, SVD / backbone):
        return
    settings = analysis.svd
    thresholds = settings.thresholds
    stage = f"svd {backbone}"
    messages.begin(stage, "the dims that each image's tokens need, each image in a basis of its own")
    shapes = read_json(EXTRACT / backbone / RECORD)["blocks"]
    *earlier, (_, tokens) = blocks(EXTRACT / backbone).items()
    energies = [np.asarray(of) for _, of in earlier] + [svd.energies(tokens)]
    profiles = [profile([of], thresholds) for of in energies]
    last = profiles[-1]
    ranks = svd.numerical_rank(energies[-1], tokens=tokens.shape[1], channels=tokens.shape[2])
    metrics = {
        **describe(EXTRACT / backbone),
        "thresholds": thresholds,
        **statistics(last.dims, thresholds),
        "another_sample": percentile_of_another_sample(last.dims, thresholds, settings.resamples, settings.seed),
        "rank": statistics_of(ranks),
        "blocks": [
            {**shape, **statistics(found.dims, thresholds)} for shape, found in zip(shapes, profiles, strict=True)
        ],
    }
    with atomic_folder(SVD / backbone) as folder:
        dims = np.stack([found.dims for found in profiles])
        write_npy(folder / "dims.npy", dims.astype(np.int32))  # [blocks, images, thresholds]
        write_npy(folder / "ranks.npy", ranks.astype(np.int32))  # [images]
        write_npy(folder / "curve.npy", last.curve)  # mean share of the first d dimensions
        write_npy(folder / "captured.npy", last.captured)  # [percentiles over images, dimensions]
        write_npy(folder / "spectrum.npy", last.spectrum)  # energy of each dimension, mean over images
        write_json(folder / "metrics.json", metrics)
    messages.end(stage, messages.energy_dims(metrics["dims_p99"], metrics["channels"]), SVD / backbone)


if __name__ == "__main__":
    run(main)
