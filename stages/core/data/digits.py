"""The embedded dataset: scikit-learn's handwritten digits, written out as class folders."""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder


def export_digits(folder: Path, *, train_split: str, val_split: str, val_images: int, seed: int) -> None:
    """Write scikit-learn's handwritten digits (1,797 8×8 scans) as PNG class folders, split by class.

    The scans' 17 grey levels are spread over 0 to 255. PNGs are stored uncompressed, so that their bytes do
    not depend on a compressor's version.

    Raises:
        UserError: `val_images` leaves too few images for one of the splits.
    """
    from sklearn.datasets import load_digits  # takes a second: only when there is something to export
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    try:
        train, val = train_test_split(
            np.arange(len(grey)), test_size=val_images, stratify=digits.target, random_state=seed
        )
    except ValueError as error:
        raise UserError(f"dataset.val_images {val_images}: {error}") from None
    with atomic_folder(folder) as temporary:
        for name, members in ((train_split, train), (val_split, val)):
            for index in members.tolist():
                target = temporary / name / str(digits.target[index]) / f"{index:04d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(grey[index]).save(target, compress_level=0)
