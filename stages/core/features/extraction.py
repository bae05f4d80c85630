"""Extract the patch tokens of a model's blocks: each image is read once, whatever analyses follow."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from stages.core.base.errors import UserError
from stages.core.base.files import write_json
from stages.core.features.singular_values import squared_singular_values_of_blocks
from stages.core.features.store import RECORD, block_file, energies_file

if TYPE_CHECKING:
    from stages.core.runtime.distributed import World  # imports torch, which the analyses do not need

JOINED_BYTES = 16 * 2**20  # copied at a time where the parts of several processes are joined


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

    Class and register tokens are left out. In a hierarchical model (Swin), each stage counts as one block, with its
    own number of tokens and channels.

    Args:
        model: a timm model with `forward_intermediates`, on the device of `world`.
        batches: (images [batch, 3, height, width], labels) of this process's share of the sample, in the sample's
            order.
        folder: an existing folder; one .npy file per block and features.json are written to it (see
            `stages.core.features.store`).
        images: number of images in the sample.
        world: the processes that share the sample. Each writes the rows of its share to files of its own, and the
            first process joins them, so that no file is written from two machines.
        layerwise: measure every block, not only the last one.
        provenance: what the model is; needs at least the keys "architecture" and "weights".

    Returns:
        The content of features.json: the provenance, the input size, the number of images, and the number of tokens
        and channels of each block.

    Raises:
        UserError: the model has no `forward_intermediates`, or a feature is not finite; the message names the block
            and the image.
    """
    import torch  # here, so that the analyses, which only read features, do not import it

    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"{provenance['architecture']} has no forward_intermediates in timm; choose another backbone")
    numbers = range(len(model.feature_info)) if layerwise else [len(model.feature_info) - 1]
    indices = None if layerwise else 1  # timm: None is every block, 1 the last one
    paths = [energies_file(folder, block) for block in numbers[:-1]] + [block_file(folder, numbers[-1])]
    shapes: list[tuple[int, int]] = []  # tokens and channels of each block
    done = world.share(images).start
    model.eval()
    with torch.inference_mode(), ExitStack() as stack:
        files: list[IO[bytes]] = []
        for batch, _ in batches:
            pixels = batch.to(world.device, non_blocking=True)
            maps = model.forward_intermediates(pixels, indices=indices, intermediates_only=True)
            # [batch, channels, rows, columns] in the model's precision, to [batch, tokens, channels]
            tokens = [block_map.flatten(2).transpose(1, 2).float().cpu().numpy() for block_map in maps]
            if not files:
                shapes = [(found.shape[1], found.shape[2]) for found in tokens]
                files = [stack.enter_context(_rows(_part(path, world.rank))) for path in paths]
            for block, found in zip(numbers, tokens, strict=True):
                finite = np.isfinite(found).all((1, 2))
                if not finite.all():
                    image = done + int(np.argmin(finite))
                    raise UserError(f"block {block} gives a feature that is not finite for image {image} of the sample")
            written = [*squared_singular_values_of_blocks(tokens[:-1]), np.ascontiguousarray(tokens[-1])]
            for file, rows in zip(files, written, strict=True):
                if world.is_main and not file.tell():
                    _write_header(file, (images, *rows.shape[1:]), rows.dtype)
                file.write(rows.data)
            done += len(batch)
    world.wait()
    if world.is_main:
        for path in paths:
            _join([_part(path, rank) for rank in range(world.size)])
    record = {
        **provenance,
        "input_size": list(model.pretrained_cfg["input_size"]),
        "images": images,
        "blocks": [
            {"block": block, "tokens": count, "channels": channels}
            for block, (count, channels) in zip(numbers, shapes, strict=True)
        ],
    }
    if world.is_main:
        write_json(folder / RECORD, record)
    return record


def _part(path: Path, rank: int) -> Path:
    """The file to which one process writes its rows: the first process, to the file itself."""
    return path if rank == 0 else path.with_suffix(f".{rank}")


@contextmanager
def _rows(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which is on the disk (or the file server's) when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: IO[bytes], shape: tuple[int, ...], kind: "np.dtype[Any]") -> None:
    """Write what stands before the rows of an .npy file."""
    description = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


def _join(parts: Sequence[Path]) -> None:
    """Append all parts to the first one, in order, and remove them."""
    with parts[0].open("ab") as whole:
        for part in parts[1:]:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, whole, JOINED_BYTES)
            part.unlink()
