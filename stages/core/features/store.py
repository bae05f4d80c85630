"""The folder of one backbone's features: the patch tokens of its blocks on the analysis sample, and features.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.base.arrays import read_npy, release
from stages.core.base.errors import UserError
from stages.core.base.files import read_json

RECORD = "features.json"

CHUNK_BYTES = 64 * 2**20  # of float64 features in memory at a time


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
    """The tokens of the last block, [images, tokens, channels], mapped into memory.

    Raises:
        UserError: the file is missing, damaged, or not of the recorded shape.
    """
    record = read_json(folder / RECORD)
    last = record["blocks"][-1]
    shape = (record["images"], last["tokens"], last["channels"])
    return _read(block_file(folder, last["block"]), shape, np.float32)


def describe(folder: Path) -> dict[str, Any]:
    """What every analysis records about its features: the model, where its weights are from, the last block's shape."""
    record = read_json(folder / RECORD)
    last = record["blocks"][-1]
    source = record.get("source")  # None for weights made here, whose digest differs from machine to machine
    return {
        "backbone": folder.name,
        **{key: record[key] for key in ("architecture", "weights", "input_size", "images")},
        "source": source,
        "sha256": record.get("sha256") if source else None,
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


def chunks(features: np.ndarray, precision: type[np.floating] = np.float64) -> Iterator[np.ndarray]:
    """Consecutive images, [images of the chunk, tokens, channels], at most about CHUNK_BYTES at a time.

    No more than one chunk of a mapped file stays in memory. float64 holds the squares of all float32 values, and
    their sums, without overflow or underflow: no scaling is needed.

    Args:
        features: [images, tokens, channels].
        precision: of the chunks.

    Raises:
        UserError: the array is empty or not three-dimensional, or a feature is not finite.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise UserError(f"features must be [images, tokens, channels], each at least 1; got {features.shape}")
    per_chunk = max(1, CHUNK_BYTES // (8 * features.shape[1] * features.shape[2]))
    for start in range(0, len(features), per_chunk):
        chunk = np.asarray(features[start : start + per_chunk], dtype=precision)
        release(features)
        finite = np.isfinite(chunk).all((1, 2))
        if not finite.all():
            raise UserError(f"image {start + int(np.argmin(finite))} of the sample has a feature that is not finite")
        yield chunk
