"""Prepare the data: embed or index it, write the manifest and the analysis sample.

Runs on every `dvc repro`, since DVC cannot see files outside the repository; what has not changed is
left alone, so that nothing downstream runs again.
"""

import shutil
import sys
from contextlib import suppress
from typing import Any

from stages.core import dataset, params
from stages.core.digits import export_digits
from stages.core.errors import UserError, run
from stages.core.files import read_json, write_json, write_text
from stages.images import source, unavailable
from stages.paths import EMBEDDED_IMAGES, MANIFEST, PREPARE, index_file


def identity(data: params.Dataset) -> dict[str, Any]:
    """What the manifest says of the dataset before its images are looked at."""
    keys = {"classes", "train_split", "val_split", "val_images", "split_seed"}
    return {"dataset": data.label, **data.model_dump(include=keys, exclude_none=True)}


def survey(data: params.Dataset) -> tuple[dict[str, dataset.Split], dict[str, Any]]:
    """List both splits, refuse what cannot be used, and describe them."""
    names = {"train": data.train_split, "val": data.val_split}
    images = source(data)
    splits = {key: images.scan(name) for key, name in names.items()}
    dataset.check_splits(splits["train"], splits["val"], classes=data.classes)
    manifest = {**identity(data), "class_names": list(splits["val"].classes)}
    for key, split in splits.items():
        manifest[key] = dataset.describe(split, EMBEDDED_IMAGES / names[key] if data.reader == "digits" else None)
    return splits, manifest


def main() -> None:
    """Bring artifacts/prepare and the manifest up to date with params and the images."""
    given = params.load()
    data = given.dataset
    recorded = read_json(MANIFEST) if MANIFEST.is_file() else {}

    reason = unavailable(data)
    if reason and identity(data).items() <= recorded.items():
        PREPARE.mkdir(parents=True, exist_ok=True)
        print(f"prepare: {MANIFEST} stays as recorded: {reason}", file=sys.stderr)
        return

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
