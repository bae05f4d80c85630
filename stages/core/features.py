"""The patch tokens of a backbone's blocks on the analysis sample: extracted once, read by every analysis."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.arrays import read_npy, release
from stages.core.errors import UserError
from stages.core.files import read_json, write_json

if TYPE_CHECKING:
    from stages.core.distributed import World  # it imports torch, which the analyses do without

RECORD = "features.json"
CHUNK_BYTES = 64 * 2**20  # of features held in memory at a time


def block_file(folder: Path, block: int) -> Path:
    """The file of one block's tokens, [images, tokens, channels] in float32; blocks count from 0."""
    return folder / f"layer_{block:02d}.npy"


def extract(
    model: Any,
    batches: Iterable[Any],
    folder: Path,
    *,
    images: int,
    world: "World",
    layerwise: bool,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the patch tokens that leave the blocks of a timm model, before the final norm.

    Class and register tokens are dropped. A model of stages (Swin) counts each stage as a block, with its own
    number of tokens and channels.

    Args:
        model: a timm model with `forward_intermediates`, on the device of `world`.
        batches: (images [batch, 3, height, width], labels) of this process's share of the sample, in its order.
        folder: an existing folder, which gets one .npy per block and features.json.
        images: how many images the sample holds.
        world: the processes that share the sample; each writes its own part of the same files.
        layerwise: write every block, not only the last one.
        provenance: what the model is: at least architecture and weights.

    Returns:
        What features.json says: the provenance, the input size, images, and tokens and channels of each block.

    Raises:
        UserError: the model gives no intermediate maps, or a feature is not finite; the text names the block and
            the image.
    """
    import torch  # here, so that the analyses, which only read features, stay without it

    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"{provenance['architecture']} has no forward_intermediates in timm; choose another backbone")
    numbers = range(len(model.feature_info)) if layerwise else [len(model.feature_info) - 1]
    wanted = None if layerwise else 1  # the last one
    arrays: list[np.ndarray] = []
    done = world.share(images).start
    model.eval()
    with torch.inference_mode():
        for batch, _ in batches:
            maps = model.forward_intermediates(batch.to(world.device), indices=wanted, intermediates_only=True)
            # [batch, channels, rows, columns], whatever the model computes in
            tokens = [block_map.flatten(2).transpose(1, 2).float().cpu().numpy() for block_map in maps]
            if not arrays:
                arrays = _files(folder, numbers, [(images, *found.shape[1:]) for found in tokens], world)
            for block, array, found in zip(numbers, arrays, tokens, strict=True):
                finite = np.isfinite(found).all((1, 2))
                if not finite.all():
                    image = done + int(np.argmin(finite))
                    raise UserError(f"block {block} gives a feature that is not finite for image {image} of the sample")
                array[done : done + len(found)] = found
                release(array)
            done += len(batch)
    for array in arrays:
        array.flush()  # type: ignore[attr-defined]
    world.wait()
    record = {
        **provenance,
        "input_size": list(model.pretrained_cfg["input_size"]),
        "images": images,
        "blocks": [
            {"block": block, "tokens": array.shape[1], "channels": array.shape[2]}
            for block, array in zip(numbers, arrays, strict=True)
        ],
    }
    if world.primary:
        write_json(folder / RECORD, record)
    return record


def _files(folder: Path, numbers: Iterable[int], shapes: Iterable[tuple[int, ...]], world: "World") -> list[np.ndarray]:
    """The blocks' files, made by the first process and open for writing in every one."""
    paths = [block_file(folder, block) for block in numbers]
    if world.primary:
        for path, shape in zip(paths, shapes, strict=True):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            with path.open("r+b") as file:  # a disk that is full says so here, and kills no process that writes
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    world.wait()
    return [np.lib.format.open_memmap(path, mode="r+") for path in paths]


def blocks(folder: Path) -> dict[int, np.ndarray]:
    """The tokens of every block that was written, by its number, mapped into memory, [images, tokens, channels].

    Raises:
        UserError: a file is missing, damaged, or not of the recorded shape.
    """
    record = read_json(folder / RECORD)
    return {entry["block"]: _read(folder, record["images"], entry) for entry in record["blocks"]}


def last_block(folder: Path) -> np.ndarray:
    """The tokens of the last block, mapped into memory, [images, tokens, channels].

    Raises:
        UserError: the file is missing, damaged, or not of the recorded shape.
    """
    record = read_json(folder / RECORD)
    return _read(folder, record["images"], record["blocks"][-1])


def describe(folder: Path) -> dict[str, Any]:
    """What every analysis says of the features it is of: the model, its weights, and the last block's shape."""
    record = read_json(folder / RECORD)
    last = record["blocks"][-1]
    return {
        "backbone": folder.name,
        **{key: record[key] for key in ("architecture", "weights", "input_size", "images")},
        **{key: last[key] for key in ("tokens", "channels")},
    }


def _read(folder: Path, images: int, entry: Mapping[str, int]) -> np.ndarray:
    path = block_file(folder, entry["block"])
    array = read_npy(path)
    shape = (images, entry["tokens"], entry["channels"])
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(
            f"{path} is {array.dtype} {array.shape}, not float32 {shape}; delete {folder} and run `dvc repro`"
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
