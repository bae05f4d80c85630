"""Prepare the data: embed or index it, write the manifest and the analysis sample."""

import shutil
import sys
from collections import Counter
from contextlib import suppress

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_json, write_text
from stages.core.config import params
from stages.core.data.dataset import embedded_images, look_at_images, survey
from stages.core.data.digits import export_digits
from stages.core.data.splits import analysis_sample, index_file, left_out_text
from stages.paths import MANIFEST, PARAMS, PREPARE


def main() -> None:
    """Bring artifacts/prepare and the manifest up to date with params and the images."""
    parameters = params.load(PARAMS)
    data = parameters.dataset
    recorded = read_json(MANIFEST) if MANIFEST.is_file() else {}

    messages.begin("prepare", f"checks and lists the images of {data.label}")
    surveyed = None
    if data.reader != "digits":
        surveyed = survey(data, PREPARE)
        dark = look_at_images(data, surveyed[0], PREPARE)
        if dark:
            print(
                f"warning: of the images of 16 bits that were looked at, {len(dark)} use less than a sixteenth of the "
                f"range ({', '.join(dark[:3])}{', …' if len(dark) > 3 else ''}); scale them if they hold 12 bits",
                file=sys.stderr,
            )
        shutil.rmtree(embedded_images(PREPARE), ignore_errors=True)
    else:
        with suppress(UserError):  # the exported images are damaged or of other parameters: export them anew
            surveyed = survey(data, PREPARE)
        if surveyed is None or surveyed[1] != recorded:
            export_digits(
                embedded_images(PREPARE),
                train_split=data.train_split or "train",
                val_split=data.val_split,
                val_images=data.val_images or 0,
                seed=data.split_seed,
            )
            surveyed = survey(data, PREPARE)

    splits, manifest = surveyed
    sample = analysis_sample(splits["val"], parameters.analysis.images_per_class)
    for key, split in splits.items():
        write_text(index_file(PREPARE, key), "\n".join(split.files) + "\n")
    if "train" not in splits:  # of other parameters: DVC keeps what is in this folder
        index_file(PREPARE, "train").unlink(missing_ok=True)
    write_text(index_file(PREPARE, "sample"), "\n".join(sample) + "\n")
    write_json(MANIFEST, manifest)
    kinds = (("train", "training"), ("val", "validation"))
    counts = " and ".join(f"{manifest[part]['images']:,} {kind}" for part, kind in kinds if part in manifest)
    found = f"{counts} images, {len(sample):,} to analyse"
    left_out = sum((Counter(split.left_out) for split in splits.values()), Counter())
    messages.end("prepare", f"{found}; left out: {left_out_text(left_out)}" if left_out else found, PREPARE)


if __name__ == "__main__":
    run(main)
