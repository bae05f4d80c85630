"""Spectral Energy Pattern of a backbone's last-block tokens, beside its null models."""

import numpy as np

from stages import arguments, messages, missing
from stages.core.analysis import intervals, nulls, permutation, sep
from stages.core.analysis.dims import shares
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.config import params
from stages.core.features.store import describe, last_block
from stages.paths import EXTRACT, PARAMS, SEP


def main() -> None:
    """Write the patterns of the full and the folded spectrum: curves, null models, dims per image, bandwidths."""
    analysis = params.load(PARAMS).analysis
    backbone = arguments.backbone(__doc__, analysis.backbones)
    if missing.passed_on(EXTRACT / backbone / missing.FILE, SEP / backbone):
        return
    settings = analysis.sep
    stage = f"sep {backbone}"
    messages.begin(stage, f"how each token spreads its energy, beside {settings.permutations} random channel orders")
    tokens = last_block(EXTRACT / backbone)
    channels = tokens.shape[2]
    images, moment = sep.image_dims(tokens, settings.thresholds), sep.moment(tokens)
    mean = sep.spectrum_of_moment(moment)  # as the permuted ones: no difference between them is one of rounding
    folded = {
        "mean": mean,
        "permuted": sep.permuted_spectra(moment, settings.permutations, settings.seed),
        "white_noise": nulls.white_noise(channels),
        "permuted_expected": nulls.permutation_expectation(mean[0], channels),
        "gaussian": sep.spectrum_of_moment(nulls.gaussian_moment(nulls.fit_gaussian(tokens))),
    }
    full = {name: sep.unfold(spectrum, channels) for name, spectrum in folded.items()}
    patterns, expected, metrics = {}, {}, {}
    for name, of in {"folded": folded, "full": full}.items():
        patterns[name] = sep.pattern(of["mean"], of["permuted"], settings.thresholds)
        expected[name] = {null: shares(of[null]) for null in nulls.EXPECTED}
        reached, under_null = (
            found[name][images.with_energy] / len(of["mean"]) for found in (images.observed, images.expected)
        )
        metrics[name] = {
            **patterns[name].metrics,
            **nulls.against(patterns[name].curve[0], expected[name], shares(of["permuted"]), settings.thresholds),
            "bandwidth_over_images": intervals.paired(
                reached, under_null, settings.thresholds, settings.resamples, settings.seed
            ),
        }
    shifts = permutation.shifts(tokens, settings.thresholds)
    recorded = {
        **describe(EXTRACT / backbone),
        "thresholds": settings.thresholds,
        "zero_tokens": images.zero_tokens,
        "permutations": settings.permutations,
        "resamples": settings.resamples,
        "interval_level": intervals.LEVEL,
        **metrics["full"],
        "another_sample": sep.dims_of_another_sample(
            images,
            list(metrics["full"]["dims"].values()),
            channels,
            settings.thresholds,
            settings.resamples,
            settings.seed,
        ),
        "one_image": sep.dims_of_one_image(images, settings.thresholds),
        "folded": metrics["folded"],
        "permutation": permutation.shift_metrics(
            shifts, settings.thresholds, resamples=settings.resamples, seed=settings.seed
        ),
    }
    token_std = sep.token_std(tokens)
    with atomic_folder(SEP / backbone) as folder:
        for name, pattern in patterns.items():
            write_npy(folder / f"curve_{name}.npy", pattern.curve)
            write_npy(folder / f"nulls_{name}.npy", np.stack(list(expected[name].values())))  # [nulls.EXPECTED, bins]
            write_npy(folder / f"std_{name}.npy", token_std[name])  # over tokens, [bins]
            write_npy(folder / f"dims_{name}.npy", images.observed[name].astype(np.int32))
        write_json(folder / "metrics.json", recorded)
    level = max(settings.thresholds)
    wide, null = (round(100 * recorded[name][str(level)]) for name in ("bandwidth", "white_noise_bandwidth"))
    found = f"{level} % of the energy need {wide} % of the channel frequencies (white noise: {null} %)"
    messages.end(stage, found, SEP / backbone)


if __name__ == "__main__":
    run(main)
