"""Where the images of the dataset are, and which of them a stage reads."""

from pathlib import Path

from stages.core.dataset import ImageList, read_index
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.machine import data_root
from stages.paths import EMBEDDED_IMAGES, MANIFEST, index_file


def images_root(dataset: str) -> Path:
    """The folder that holds the splits of the dataset of that name in params.

    Raises:
        UserError: the dataset is external, and DATA_ROOT is not set or no folder.
    """
    if dataset == "digits":
        return EMBEDDED_IMAGES
    root = data_root()
    if root is None:
        raise UserError("DATA_ROOT is not set; set it to the dataset's folder, which holds the splits")
    if not root.is_dir():
        raise UserError(f"DATA_ROOT={root} is no folder; set it to the dataset's folder, which holds the splits")
    return root


def image_list(dataset: str, part: str) -> ImageList:
    """The images of "train", "val" or "sample", as `prepare` indexed them."""
    manifest = read_json(MANIFEST)
    split = manifest["train_split" if part == "train" else "val_split"]
    return read_index(images_root(dataset) / split, index_file(part), manifest["class_names"])
