"""Spectral Energy Pattern of a backbone's last-block tokens, beside its null model of permuted channels."""

import numpy as np

from stages import arguments
from stages.core import params, sep
from stages.core.arrays import write_npy
from stages.core.errors import run
from stages.core.features import describe, last_block
from stages.core.files import atomic_folder, write_json
from stages.paths import EXTRACT, SEP


def main() -> None:
    """Write the patterns of the full and the folded spectrum: curves, dims per image, bandwidths."""
    given = params.load().analysis
    backbone = arguments.backbone(__doc__, given.backbones)
    tokens = last_block(EXTRACT / backbone)
    spectra = sep.mean_spectra(tokens)
    permuted = sep.permuted_spectra(sep.moment(tokens), given.sep.permutations, given.sep.seed)
    folded = (spectra.mean(), spectra.folded, permuted)
    mean, per_image, null = (sep.unfold(spectrum, tokens.shape[2]) for spectrum in folded)
    patterns = {
        "folded": sep.pattern(*folded, given.sep.thresholds),
        "full": sep.pattern(mean, per_image, null, given.sep.thresholds),
    }
    metrics = {
        **describe(EXTRACT / backbone),
        "thresholds": given.sep.thresholds,
        "zero_tokens": spectra.zero_tokens,
        "permutations": given.sep.permutations,
        **patterns["full"].metrics,
        "folded": patterns["folded"].metrics,
    }
    with atomic_folder(SEP / backbone) as folder:
        for spectrum, pattern in patterns.items():
            write_npy(folder / f"curve_{spectrum}.npy", pattern.curve)
            write_npy(folder / f"dims_{spectrum}.npy", pattern.dims_per_image.astype(np.int32))
        write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)
