"""Where the images of the dataset are, and which of them a stage reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.config.schema import HUB, Dataset
from stages.core.data.folders import Folders
from stages.core.data.hub import Hub, missing_extra
from stages.core.data.image_list import ImageList, check_pixels
from stages.core.data.layout import readable
from stages.core.data.splits import (
    Split,
    check_classes,
    check_copies,
    check_sizes,
    check_splits,
    describe,
    hold_out,
    index_file,
    name_digests,
    read_index,
)
from stages.core.data.tars import Tars, holds_archives
from stages.core.runtime.machine import data_root, listings


class Source(Protocol):
    """The images of a dataset, in some kind of storage."""

    def scan(self, split: str) -> Split:
        """List the images of a split."""

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read."""


def unavailable(data: Dataset) -> str | None:
    """Why this machine cannot reach the images of the dataset section of params, or None if it can."""
    if data.reader.startswith(HUB):
        return missing_extra()
    if data.reader != "digits" and data_root() is None:
        return "DATA_ROOT is not set; set it to the dataset's folder, which holds the splits"
    return None


def embedded_images(prepared: Path) -> Path:
    """Where the images of an embedded dataset are written out, in the folder that `prepare` makes."""
    return prepared / "images"


def source(data: Dataset, prepared: Path) -> Source:
    """The images of the dataset section of params.

    Args:
        data: the section.
        prepared: the folder that `prepare` makes.

    Raises:
        UserError: the dataset is external, and DATA_ROOT is not set or not a folder; or an extra is missing.
    """
    reason = unavailable(data)
    if reason:
        raise UserError(reason)
    if data.reader == "digits":
        return Folders(embedded_images(prepared))
    root = data_root()
    with readable(f"DATA_ROOT={root}"):
        if root is not None and not root.is_dir():
            raise UserError(f"DATA_ROOT={root} is not a folder; set it to the dataset's folder, which holds the splits")
    if data.reader.startswith(HUB):
        return Hub(data.reader.removeprefix(HUB), root, data.columns)
    assert root is not None  # else unavailable
    archived = data.reader == "tar" or (data.reader == "local" and holds_archives(root, data.val_split))
    return Tars(root, listings()) if archived else Folders(root)


def survey(data: Dataset, prepared: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """List the images of "train" and "val", refuse splits that cannot be used, and describe them in a manifest.

    Without a `train_split` there is "val" alone.

    Args:
        data: the dataset section of params.
        prepared: the folder that `prepare` makes.

    Raises:
        UserError: the images cannot be reached, or cannot be trained on and validated on; the text says why.
    """
    names = {key: name for key, name in (("train", data.train_split), ("val", data.val_split)) if name is not None}
    images = source(data, prepared)
    if data.train_split is None:
        splits = {"val": images.scan(data.val_split)}
        check_classes(splits["val"], classes=data.classes)
    elif data.held_out is None:
        splits = {key: images.scan(name) for key, name in names.items()}
        train, val = splits["train"], splits["val"]
        check_splits(train, val, classes=data.classes)
        if (train.files, train.sizes) == (val.files, val.sizes):
            check_copies(*(images.open(names[key], list(split.files), split.classes) for key, split in splits.items()))
    else:
        whole = images.scan(data.train_split)
        check_classes(whole, classes=data.classes)
        splits = dict(zip(names, hold_out(whole, data.held_out, data.split_seed), strict=True))
    if data.unreadable == "stop" and "train" in splits:
        check_sizes(splits["train"])
    check_sizes(splits["val"])  # an image that cannot be read stops validation, whatever the policy
    keys = {"classes", "train_split", "val_split", "val_images", "split_seed", "held_out"}
    # Results on a held-out part are not results on the dataset: no published claim is compared with them.
    label = data.label if data.held_out is None else f"{data.label}, held-out part"
    manifest = {"dataset": label, **data.model_dump(include=keys, exclude_none=True)}
    manifest["class_names"] = list(splits["val"].classes)
    for key, split in splits.items():
        manifest[key] = describe(split, embedded_images(prepared) / names[key] if data.reader == "digits" else None)
    manifest["val"] |= name_digests(splits["val"])
    return splits, manifest


def look_at_images(data: Dataset, splits: Mapping[str, Split], prepared: Path) -> list[str]:
    """Refuse images whose pixels would be misread, as far as some of each split show, before any training.

    Args:
        data: the dataset section of params.
        splits: what `survey` found, by "train" and "val".
        prepared: the folder that `prepare` makes.

    Returns:
        Names of images that come out nearly black, and may be of fewer bits than their files say.

    Raises:
        UserError: see `stages.core.data.image_list.check_pixels`.
    """
    dark = []
    for part, split in splits.items():
        trained = part == "train" or data.held_out is not None
        name = (data.train_split if trained else None) or data.val_split
        images = source(data, prepared).open(name, list(split.files), split.classes)
        dark += check_pixels(images, skip=part == "train" and data.unreadable == "skip")
    return dark


def image_list(data: Dataset, part: str, *, prepared: Path, manifest_file: Path) -> ImageList:
    """The images of "train", "val" or "sample", as `prepare` indexed them.

    Args:
        data: the dataset section of params.
        part: "train", "val" or "sample".
        prepared: the folder that `prepare` makes.
        manifest_file: the manifest that it writes.

    Raises:
        UserError: an index or the manifest is missing, or the images cannot be reached.
    """
    manifest = read_json(manifest_file)
    split = manifest["train_split" if part == "train" or "held_out" in manifest else "val_split"]
    return source(data, prepared).open(split, read_index(index_file(prepared, part)), manifest["class_names"])
