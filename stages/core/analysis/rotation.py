"""Angles between the images' subspaces of a backbone's last block, and between them and the shared basis."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.analysis import subspaces
from stages.core.analysis.dims import PERCENTILES, dims, shares, summary
from stages.core.analysis.registry import Columns, Measured, Source
from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.config.schema import Count, Percent, Section, Seed
from stages.core.data.splits import index_file, read_index
from stages.core.features.singular_values import squared_singular_values
from stages.core.features.store import last_block

PURPOSE = "how far the images' own subspaces differ"


class Params(Section):
    """Angles between subspaces that hold `level` percent of an image's energy, for at most `pairs` pairs per kind."""

    level: Percent
    pairs: Count
    seed: Seed


def measure(source: Source, settings: Params) -> Measured:
    """Principal angles and overlaps within and across classes, with the shared basis, and of random subspaces.

    Raises:
        UserError: the features are not of the images of the sample.
    """
    tokens = last_block(source.features)
    classes = [file.partition("/")[0] for file in read_index(index_file(source.prepared, "sample"))]
    if len(classes) != len(tokens):
        raise UserError(f"the features are of {len(tokens)} images, but the sample has {len(classes)}; run `dvc repro`")
    energies = squared_singular_values(tokens)
    k = math.ceil(np.median(dims(shares(energies), [settings.level])))  # one for all, so that angles can be compared

    rng = np.random.default_rng(settings.seed)
    within = subspaces.pairs_within(classes, settings.pairs, rng)
    across = subspaces.pairs_across(classes, settings.pairs, rng)
    used, places = np.unique(np.concatenate([within, across]), return_inverse=True)
    within, across = np.split(places.reshape(-1, 2), [len(within)])
    shared, spectrum = (np.array(read_npy(source.results("pca") / f"{name}.npy")) for name in ("basis", "eigenvalues"))
    own = subspaces.leading_subspaces(tokens[used], k)
    cosines = dict(subspaces.compared(own, shared, within, across, rng))

    overlaps = {kind: subspaces.overlap(pairs) for kind, pairs in cosines.items()}
    angles = {kind: np.degrees(np.arccos(pairs)) for kind, pairs in cosines.items()}
    metrics = {
        "level": settings.level,
        "k": k,
        "classes": len(set(classes)),
        "kinds": list(cosines),
        "compared": {kind: len(pairs) for kind, pairs in cosines.items()},
        "overlap": {kind: summary(pairs) for kind, pairs in overlaps.items()},
        "expected_random_overlap": round(k / tokens.shape[2], 6),
        "mean_angle_degrees": {kind: summary(pairs.mean(axis=1)) for kind, pairs in angles.items()},
        **{
            rank.__name__: {"per_image": summary(rank(energies)), "shared": round(float(rank(spectrum)), 6)}
            for rank in (subspaces.effective_rank, subspaces.stable_rank)
        },
    }
    bands = [[pairs.mean(axis=0), *np.percentile(pairs, (5, 95), axis=0)] for pairs in angles.values()]
    arrays = {
        "angles": np.array(bands),  # [kinds, (mean, p5, p95), k], in degrees
        "overlap": np.array([np.percentile(pairs, PERCENTILES) for pairs in overlaps.values()]),
    }
    means = ", ".join(f"{pairs.mean():.2f} ({kind})" for kind, pairs in overlaps.items())
    return Measured(metrics, arrays, f"the mean overlap of subspaces of {k} dims is {means}")


def columns(metrics: dict[str, Any]) -> dict[str, float]:
    """None: its results are in tables of their own."""
    return {}


def tables(folder: Path) -> Iterator[tuple[str, Columns]]:
    """Principal angles in degrees, smallest first, and percentiles of the overlap: both over pairs of subspaces."""
    kinds = read_json(folder / "metrics.json")["kinds"]
    for kind, (mean, low, high) in zip(kinds, read_npy(folder / "angles.npy"), strict=True):
        yield "angles", {"kind": kind, "angle": np.arange(len(mean)) + 1, "mean": mean, "p5": low, "p95": high}
    for kind, overlap in zip(kinds, read_npy(folder / "overlap.npy"), strict=True):
        yield "overlap", {"kind": kind, "percentile": PERCENTILES, "overlap": overlap}
