"""Prepare the data: embed or index it, write the manifest and the analysis sample."""

import shutil
from contextlib import suppress

from stages.core import dataset, params
from stages.core.digits import export_digits
from stages.core.errors import UserError, run
from stages.core.files import read_json, write_json, write_text
from stages.images import survey
from stages.paths import EMBEDDED_IMAGES, MANIFEST, index_file


def main() -> None:
    """Bring artifacts/prepare and the manifest up to date with params and the images."""
    given = params.load()
    data = given.dataset
    recorded = read_json(MANIFEST) if MANIFEST.is_file() else {}

    surveyed = None
    if data.reader != "digits":
        surveyed = survey(data)
        shutil.rmtree(EMBEDDED_IMAGES, ignore_errors=True)
    else:
        with suppress(UserError):  # what is there is damaged or of other params: make it anew
            surveyed = survey(data)
        if surveyed is None or surveyed[1] != recorded:
            export_digits(
                EMBEDDED_IMAGES,
                train_split=data.train_split,
                val_split=data.val_split,
                val_images=data.val_images or 0,
                seed=data.split_seed,
            )
            surveyed = survey(data)

    splits, manifest = surveyed
    sample = dataset.analysis_sample(splits["val"], given.analysis.images_per_class)
    for key, split in splits.items():
        write_text(index_file(key), "\n".join(split.files) + "\n")
    write_text(index_file("sample"), "\n".join(sample) + "\n")
    write_json(MANIFEST, manifest)


if __name__ == "__main__":
    run(main)
