"""The patch tokens of a backbone's blocks on the analysis sample: extracted once, read by every analysis."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.base.arrays import read_npy, release
from stages.core.base.errors import UserError
from stages.core.base.files import read_json

RECORD = "features.json"

CHUNK_BYTES = 64 * 2**20  # of features held in memory at a time


def block_file(folder: Path, block: int) -> Path:
    """The file of one block's tokens, [images, tokens, channels] in float32; blocks count from 0."""
    return folder / f"layer_{block:02d}.npy"


def energies_file(folder: Path, block: int) -> Path:
    """The file of the squared singular values of one block's tokens, [images, min(tokens, channels)] in float64."""
    return folder / f"energies_{block:02d}.npy"


def blocks(folder: Path) -> dict[int, np.ndarray]:
    """What was written of every block, by its number, mapped into memory.

    Of the last block its tokens, [images, tokens, channels]; of each earlier one the squared singular values of each
    image's tokens, [images, min(tokens, channels)].

    Raises:
        UserError: a file is missing, damaged, or not of the recorded shape.
    """
    record = read_json(folder / RECORD)
    *earlier, last = record["blocks"]
    found = {}
    for entry in earlier:
        shape = (record["images"], min(entry["tokens"], entry["channels"]))
        found[entry["block"]] = _read(energies_file(folder, entry["block"]), shape, np.float64)
    return found | {last["block"]: last_block(folder)}


def last_block(folder: Path) -> np.ndarray:
    """The tokens of the last block, mapped into memory, [images, tokens, channels].

    Raises:
        UserError: the file is missing, damaged, or not of the recorded shape.
    """
    record = read_json(folder / RECORD)
    last = record["blocks"][-1]
    shape = (record["images"], last["tokens"], last["channels"])
    return _read(block_file(folder, last["block"]), shape, np.float32)


def describe(folder: Path) -> dict[str, Any]:
    """What every analysis says of the features it is of: the model, its weights, and the last block's shape."""
    record = read_json(folder / RECORD)
    last = record["blocks"][-1]
    return {
        "backbone": folder.name,
        **{key: record[key] for key in ("architecture", "weights", "input_size", "images")},
        **{key: last[key] for key in ("tokens", "channels")},
    }


def _read(path: Path, shape: tuple[int, ...], kind: type[np.floating]) -> np.ndarray:
    array = read_npy(path)
    if array.shape != shape or array.dtype != kind:
        raise UserError(
            f"{path} is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}; delete {path.parent} and run "
            "`dvc repro`"
        )
    return array


def chunks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Whole images in float64, [images of the chunk, tokens, channels]; of a mapped file no more is held.

    The squares of all float32 values, and their sums, are well inside float64's range: no scaling is needed.

    Raises:
        UserError: there is no feature, or one is not finite.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise UserError(f"features must be [images, tokens, channels], none of them 0; got {features.shape}")
    per_chunk = max(1, CHUNK_BYTES // (8 * features.shape[1] * features.shape[2]))
    for start in range(0, len(features), per_chunk):
        chunk = np.asarray(features[start : start + per_chunk], dtype=np.float64)
        release(features)
        finite = np.isfinite(chunk).all((1, 2))
        if not finite.all():
            raise UserError(f"image {start + int(np.argmin(finite))} of the sample has a feature that is not finite")
        yield chunk
