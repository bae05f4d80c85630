"""Where the images of the dataset are, and which of them a stage reads."""

from typing import Any

from stages.core.dataset import ImageList, Split, check_classes, check_splits, describe, hold_out, read_index
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.hub import Hub, missing_extra
from stages.core.machine import data_root, listings
from stages.core.readers import Folders, Source, Tars
from stages.core.schema import HUB, Dataset
from stages.paths import EMBEDDED_IMAGES, MANIFEST, index_file


def unavailable(data: Dataset) -> str | None:
    """Why this machine has no way to the images of the dataset section of params, or None."""
    if data.reader.startswith(HUB):
        return missing_extra()
    if data.reader != "digits" and data_root() is None:
        return "DATA_ROOT is not set; set it to the dataset's folder, which holds the splits"
    return None


def source(data: Dataset) -> Source:
    """The images of the dataset section of params.

    Raises:
        UserError: they are external, and DATA_ROOT is not set or no folder, or an extra is missing.
    """
    reason = unavailable(data)
    if reason:
        raise UserError(reason)
    if data.reader == "digits":
        return Folders(EMBEDDED_IMAGES)
    root = data_root()
    if root is not None and not root.is_dir():
        raise UserError(f"DATA_ROOT={root} is no folder; set it to the dataset's folder, which holds the splits")
    if data.reader.startswith(HUB):
        return Hub(data.reader.removeprefix(HUB), root, data.columns)
    assert root is not None  # else unavailable
    return Tars(root, listings()) if data.reader == "tar" else Folders(root)


def survey(data: Dataset) -> tuple[dict[str, Split], dict[str, Any]]:
    """List the images of "train" and "val", refuse what cannot be used, and describe it: the manifest."""
    names = {"train": data.train_split, "val": data.val_split}
    images = source(data)
    if data.held_out is None:
        splits = {key: images.scan(name) for key, name in names.items()}
        check_splits(splits["train"], splits["val"], classes=data.classes)
    else:
        whole = images.scan(data.train_split)
        check_classes(whole, classes=data.classes)
        splits = dict(zip(names, hold_out(whole, data.held_out, data.split_seed), strict=True))
    keys = {"classes", "train_split", "val_split", "val_images", "split_seed", "held_out"}
    # Figures of a held-out part are no figures of the dataset: no published claim is judged by them.
    label = data.label if data.held_out is None else f"{data.label}, held-out part"
    manifest = {"dataset": label, **data.model_dump(include=keys, exclude_none=True)}
    manifest["class_names"] = list(splits["val"].classes)
    for key, split in splits.items():
        manifest[key] = describe(split, EMBEDDED_IMAGES / names[key] if data.reader == "digits" else None)
    return splits, manifest


def image_list(data: Dataset, part: str) -> ImageList:
    """The images of "train", "val" or "sample", as `prepare` indexed them."""
    manifest = read_json(MANIFEST)
    split = manifest["train_split" if part == "train" or "held_out" in manifest else "val_split"]
    return source(data).open(split, read_index(index_file(part)), manifest["class_names"])
