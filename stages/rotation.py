"""Angles between the images' subspaces of a backbone's last block, and between them and the shared basis."""

import math

import numpy as np

from stages import arguments, messages, missing
from stages.core.analysis import subspaces, svd
from stages.core.analysis.dims import PERCENTILES, dims, shares, summary
from stages.core.base.arrays import read_npy, write_npy
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, write_json
from stages.core.config import params
from stages.core.data.splits import index_file, read_index
from stages.core.features.store import describe, last_block
from stages.paths import EXTRACT, PARAMS, PCA, PREPARE, ROTATION


def main() -> None:
    """Write principal angles and overlaps within and across classes, with the shared basis, and of random subspaces."""
    analysis = params.load(PARAMS).analysis
    backbone = arguments.backbone(__doc__, analysis.backbones)
    if missing.passed_on(EXTRACT / backbone / missing.FILE, ROTATION / backbone):
        return
    rotation = analysis.rotation
    stage = f"rotation {backbone}"
    messages.begin(stage, "how far the images' own subspaces differ")
    tokens = last_block(EXTRACT / backbone)
    classes = [file.partition("/")[0] for file in read_index(index_file(PREPARE, "sample"))]
    if len(classes) != len(tokens):
        raise UserError(f"the features are of {len(tokens)} images, but the sample has {len(classes)}; run `dvc repro`")
    energies = svd.energies(tokens)
    k = math.ceil(np.median(dims(shares(energies), [rotation.level])))  # one for all, so that angles can be compared

    rng = np.random.default_rng(rotation.seed)
    within = subspaces.pairs_within(classes, rotation.pairs, rng)
    across = subspaces.pairs_across(classes, rotation.pairs, rng)
    used, places = np.unique(np.concatenate([within, across]), return_inverse=True)
    within, across = np.split(places.reshape(-1, 2), [len(within)])
    shared = np.array(read_npy(PCA / backbone / "basis.npy"))
    own = subspaces.leading_subspaces(tokens[used], k)
    cosines = dict(subspaces.compared(own, shared, within, across, rng))

    overlaps = {kind: subspaces.overlap(found) for kind, found in cosines.items()}
    angles = {kind: np.degrees(np.arccos(found)) for kind, found in cosines.items()}
    union = np.array(read_npy(PCA / backbone / "eigenvalues.npy"))
    metrics = {
        **describe(EXTRACT / backbone),
        "level": rotation.level,
        "k": k,
        "classes": len(set(classes)),
        "kinds": list(cosines),
        "compared": {kind: len(found) for kind, found in cosines.items()},
        "overlap": {kind: summary(found) for kind, found in overlaps.items()},
        "expected_random_overlap": round(k / tokens.shape[2], 6),
        "mean_angle_degrees": {kind: summary(found.mean(axis=1)) for kind, found in angles.items()},
        "effective_rank": {
            "per_image": summary(subspaces.effective_rank(energies)),
            "union": round(float(subspaces.effective_rank(union)), 6),
        },
        "stable_rank": {
            "per_image": summary(subspaces.stable_rank(energies)),
            "union": round(float(subspaces.stable_rank(union)), 6),
        },
    }
    bands = [[found.mean(axis=0), *np.percentile(found, (5, 95), axis=0)] for found in angles.values()]
    with atomic_folder(ROTATION / backbone) as folder:
        write_npy(folder / "angles.npy", np.array(bands))  # [kinds, (mean, p5, p95), k], in degrees
        write_npy(folder / "overlap.npy", np.array([np.percentile(found, PERCENTILES) for found in overlaps.values()]))
        write_json(folder / "metrics.json", metrics)
    means = ", ".join(f"{found.mean():.2f} ({kind})" for kind, found in overlaps.items())
    messages.end(stage, f"the mean overlap of subspaces of {k} dims is {means}", ROTATION / backbone)


if __name__ == "__main__":
    run(main)
