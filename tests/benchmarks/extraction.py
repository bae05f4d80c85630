"""Extraction throughput against the plain loop: python tests/benchmarks/extraction.py --out FILE.

Ours is what the stage `extract` does: its loader, `extraction.extract`, one file per block; of the last block alone, or
of all (`layerwise`). The plain loop takes one image at a time and writes one file per image. All read the same
generated JPEGs, their features must agree within 1e-4 of the root mean square, and they alternate, so that a busy
machine slows all of them. `forward` is the model's forward pass alone, in batches as ours, which extraction cannot
beat.
"""

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from stages.core.data.batches import evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.features import extraction, store
from stages.core.models.talking_heads import batch_talking_heads
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.extract import batch_size

JPEG = (500, 375)  # as most of ImageNet's
AGREEMENT = 1e-4  # of the features' root mean square


def jpegs(folder: Path, images: int) -> ImageList:
    """Write smooth random images as JPEG files."""
    rng = np.random.default_rng(0)
    names = [f"{index:05d}.JPEG" for index in range(images)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize(JPEG, Image.Resampling.BICUBIC).save(folder / name, quality=90)
    return ImageList(folder, names, [0] * images)


def ours(model: nn.Module, images: ImageList, folder: Path, device: torch.device, *, layerwise: bool = False) -> None:
    world = World(0, 1, device)
    batches = evaluation_batches(images, model, batch=batch_size(device), workers=machine.workers(), world=world)
    extraction.extract(
        model,
        batches,
        folder,
        images=len(images.files),
        world=world,
        layerwise=layerwise,
        provenance={"architecture": "", "weights": "random"},
    )


def plain(model: Any, images: ImageList, folder: Path, device: torch.device) -> None:
    transform = create_transform(**resolve_model_data_config(model))
    last = len(model.feature_info) - 1
    with torch.no_grad():
        for index, name in enumerate(images.files):
            image = transform(Image.open(images.folder / name).convert("RGB"))[None].to(device)
            (found,) = model.forward_intermediates(image, indices=[last], intermediates_only=True)
            np.save(folder / f"{index}.npy", found[0].flatten(1).T.cpu().numpy())


def forward(model: Any, images: ImageList, folder: Path, device: torch.device) -> None:
    batch = batch_size(device)
    pixels = torch.randn(batch, *model.pretrained_cfg["input_size"], device=device)
    with torch.inference_mode():
        for start in range(0, len(images.files), batch):
            model(pixels[: len(images.files) - start])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cait_s24_224")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    machine.compute_float32_in_full()  # as the stage does; TF32 alone makes features differ by more than AGREEMENT
    torch.manual_seed(0)
    as_in_timm = timm.create_model(options.model).eval().to(options.device)
    for name, weights in as_in_timm.named_parameters():
        if "gamma" in name:  # layer scale: at its initial value, CaiT's blocks change their input by next to nothing
            torch.nn.init.constant_(weights, 0.1)
    batched = copy.deepcopy(as_in_timm)
    batch_talking_heads(batched)  # as the stage's models are
    ways = {
        "ours": (ours, batched),
        "layerwise": (partial(ours, layerwise=True), batched),
        "forward": (forward, batched),
        "plain": (plain, as_in_timm),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "images").mkdir()
        images = jpegs(Path(made) / "images", options.images)
        for number in range(options.rounds + 1):
            for name, (extract, model) in ways.items():
                folder = Path(made) / f"{name}-{number}"
                folder.mkdir()
                measuring.wait(options.device)
                started = time.perf_counter()
                extract(model, images, folder, options.device)
                if number:  # the first round warms up
                    taken[name].append(time.perf_counter() - started)
        first = store.last_block(Path(made) / "ours-0")
        second = np.stack([np.load(Path(made) / f"plain-0/{index}.npy") for index in range(options.images)])
        difference = float(np.abs(first - second).max() / np.sqrt(np.mean(second**2)))
    if difference > AGREEMENT:
        raise SystemExit(f"the features differ by {difference:g}, more than {AGREEMENT:g}")
    rates = {name: measuring.spread([options.images / one for one in times]) for name, times in taken.items()}
    measuring.save(
        options.out,
        "extraction",
        {
            "model": options.model,
            "device": options.device.type,
            "images": options.images,
            "largest_relative_difference": difference,
            "images_per_s": rates,
        },
    )


if __name__ == "__main__":
    main()
