"""Extracting the patch tokens of a model's blocks: each image once, whatever reads them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.base.arrays import release
from stages.core.base.errors import UserError
from stages.core.base.files import write_json
from stages.core.features.singular_values import squared_singular_values
from stages.core.features.store import RECORD, block_file, energies_file

if TYPE_CHECKING:
    from stages.core.runtime.distributed import World  # it imports torch, which the analyses do without


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
    """Write the patch tokens that leave the last block of a timm model, before the final norm.

    Of the earlier blocks the squared singular values of each image's tokens are written, which is all that is read of
    them: every block's tokens of a ViT-Huge take 42 GB on 1,000 images, their singular values 60 MB.

    Class and register tokens are dropped. A model of stages (Swin) counts each stage as a block, with its own
    number of tokens and channels.

    Args:
        model: a timm model with `forward_intermediates`, on the device of `world`.
        batches: (images [batch, 3, height, width], labels) of this process's share of the sample, in its order.
        folder: an existing folder, which gets one .npy per block and features.json (see `stages.core.features.store`).
        images: how many images the sample holds.
        world: the processes that share the sample; each writes its own part of the same files.
        layerwise: measure every block, not only the last one.
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
    shapes: list[tuple[int, int]] = []  # tokens and channels of each block
    done = world.share(images).start
    model.eval()
    with torch.inference_mode():
        for batch, _ in batches:
            maps = model.forward_intermediates(batch.to(world.device), indices=wanted, intermediates_only=True)
            # [batch, channels, rows, columns], whatever the model computes in
            tokens = [block_map.flatten(2).transpose(1, 2).float().cpu().numpy() for block_map in maps]
            if not arrays:
                shapes = [(found.shape[1], found.shape[2]) for found in tokens]
                arrays = _files(folder, images, numbers, shapes, world)
            for block, array, found in zip(numbers, arrays, tokens, strict=True):
                finite = np.isfinite(found).all((1, 2))
                if not finite.all():
                    image = done + int(np.argmin(finite))
                    raise UserError(f"block {block} gives a feature that is not finite for image {image} of the sample")
                array[done : done + len(found)] = found if block == numbers[-1] else squared_singular_values(found)
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
            {"block": block, "tokens": count, "channels": channels}
            for block, (count, channels) in zip(numbers, shapes, strict=True)
        ],
    }
    if world.primary:
        write_json(folder / RECORD, record)
    return record


def _files(
    folder: Path, images: int, numbers: Sequence[int], shapes: Sequence[tuple[int, int]], world: "World"
) -> list[np.ndarray]:
    """The blocks' files, made by the first process and open for writing in every one.

    Args:
        folder: that gets them.
        images: of the sample.
        numbers: of the blocks.
        shapes: tokens and channels of each block.
        world: the processes that write them.
    """
    paths = [energies_file(folder, block) for block in numbers[:-1]] + [block_file(folder, numbers[-1])]
    if world.primary:
        for path, shape in zip(paths, shapes, strict=True):
            last = path == paths[-1]
            whole = (images, *shape) if last else (images, min(shape))
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32 if last else np.float64, shape=whole)
            with path.open("r+b") as file:  # a disk that is full says so here, and kills no process that writes
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    world.wait()
    return [np.lib.format.open_memmap(path, mode="r+") for path in paths]
