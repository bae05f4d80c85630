"""Loading throughput against timm's loader: python tests/benchmarks/loading.py --out FILE.

Batches of 8-bit images, as a GPU takes them, under the paper's recipe (stages/conf/recipe/imagenet.yaml) from generated
JPEGs of ImageNet's usual size. `ours` is what `train` does, with repeated augmentation; `once` is the same without
repeats, so that every image is decoded; `timm` is timm's own loader with the same transform. They alternate, so that a
busy machine slows all of them. Images per CPU second, of all processes, hold on a busy machine, too.

Beside it: where one image's CPU time goes; other decoders than Pillow, with the greatest difference of a pixel's value;
and how many crops a JPEG decoder could make from a half-size image, which takes less time to decode.
"""

import argparse
import gc
import io
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import timm
import torch
import yaml
from PIL import Image
from timm.data import ImageDataset, create_loader, create_transform
from torch.utils.data import default_collate

from stages.core.config.schema import Augment
from stages.core.data.image_list import ImageList
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches, to_planes
from stages.core.train.sampler import EpochSampler

RECIPE = Path("stages/conf/recipe/imagenet.yaml")
SIZE = (500, 375)  # pixels of most of ImageNet's images; with QUALITY and NOISE also their 110 kB
QUALITY, NOISE = 95, 12
CPU = torch.device("cpu")
WAYS = ("ours", "once", "timm")
TIMED = 120  # images whose parts are timed


def jpegs(folder: Path, images: int) -> ImageList:
    """Write smooth random images with a grain as JPEG files, in one class folder."""
    rng = np.random.default_rng(0)
    names = [f"class/{index:05d}.JPEG" for index in range(images)]
    (folder / "class").mkdir()
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = NOISE * rng.standard_normal((*SIZE[::-1], 1), dtype=np.float32)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / name, quality=QUALITY)
    return ImageList(folder, names, [0] * images)


def for_timm(augment: Augment) -> dict[str, Any]:
    """The keyword arguments of timm's `create_transform` but for random erasing, which is done on the device."""
    return augment.model_dump(exclude={"on_device", "padding", "repeats", "random_erasing"})


def loader(way: str, images: ImageList, augment: Augment, batch: int, workers: int) -> Any:
    """One epoch's batches of 8-bit images, before they are normalised on the device."""
    if way == "timm":
        return create_loader(
            ImageDataset(images.folder),
            (3, 224, 224),
            batch,
            is_training=True,
            re_prob=augment.random_erasing,  # on the device, as ours
            num_workers=workers,
            pin_memory=False,
            device=CPU,
            **for_timm(augment),
        ).loader
    repeats = augment.repeats if way == "ours" else 1
    sampler = EpochSampler(len(images.files), 0, batch=batch, world=World(0, 1, CPU), repeats=repeats)
    model = timm.create_model("deit_tiny_patch16_224")
    return TrainingBatches(images, model, sampler, augment=augment, workers=workers).loader.loader


def cpu_s() -> float:
    """CPU seconds of this process and of its workers so far."""
    used = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user code, in the system
    return used


def milliseconds(function: Callable[[Any], Any], values: list[Any]) -> tuple[float, list[Any]]:
    """CPU time of a call, the least of three passes, and the results."""
    least = float("inf")
    for _ in range(3):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        started = time.process_time()
        results = [function(value) for value in values]
        least = min(least, time.process_time() - started)
    return 1e3 * least / len(values), results


def parts(images: ImageList, augment: Augment) -> dict[str, float]:
    """Where the CPU time of an image goes, in milliseconds, were each image decoded."""
    crop, policy, _ = create_transform((3, 224, 224), is_training=True, separate=True, **for_timm(augment))
    found = {}
    values: list[Any] = list(range(TIMED))
    steps = (("read", images.content), ("decode", None), ("crop, resize, flip", crop), ("RandAugment", policy))
    for name, step in (*steps, ("to a tensor", to_planes)):
        if step is None:
            found[name], values = milliseconds(lambda index: images.sample(index)[0], list(range(TIMED)))
            found[name] -= found["read"]
        else:
            found[name], values = milliseconds(step, values)
    found["to a batch"] = milliseconds(default_collate, [values])[0] / len(values)
    return {name: round(value, 3) for name, value in found.items()}


def decoders(images: ImageList) -> dict[str, dict[str, float]]:
    """Of each decoder at hand the milliseconds for an image, and the greatest difference from Pillow's pixels."""
    contents = [images.content(index) for index in range(TIMED)]

    def pillow(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)))

    def torchvision(content: bytes) -> np.ndarray:
        decode = import_module("torchvision.io").decode_jpeg
        return decode(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    ways: dict[str, Callable[[bytes], np.ndarray]] = {"Pillow": pillow, "torchvision": torchvision}
    if find_spec("simplejpeg"):
        decode = import_module("simplejpeg").decode_jpeg
        ways["simplejpeg"] = decode
        ways["simplejpeg, fast"] = lambda content: decode(content, fastdct=True, fastupsample=True)
    found, exact = {}, None
    for name, way in ways.items():
        ms, pixels = milliseconds(way, contents)
        exact = exact or pixels
        differences = (np.abs(one.astype(int) - other).max() for one, other in zip(pixels, exact, strict=True))
        found[name] = {"ms": round(ms, 3), "largest_difference": int(max(differences))}
    return found


def halved(augment: Augment, draws: int = 10_000) -> float:
    """The share of crops at least 448 pixels high and wide, which half of the image's pixels would do for."""
    crop = create_transform((3, 224, 224), is_training=True, separate=True, **for_timm(augment))[0].transforms[0]
    image = Image.new("RGB", SIZE)
    boxes = (crop.get_params(image, crop.scale, crop.ratio) for _ in range(draws))
    return sum(min(height, width) >= 2 * 224 for _, _, height, width in boxes) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", help="what else the record should say, of other work on the machine, say")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    augment = Augment.model_validate(yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["augment"])
    with tempfile.TemporaryDirectory() as made:
        images = jpegs(Path(made), options.images)
        size = sum(map(len, map(images.content, range(options.images)))) / options.images
        rows = []
        for workers in options.workers:
            rates: dict[str, list[float]] = {way: [] for way in WAYS}
            per_core: dict[str, list[float]] = {way: [] for way in WAYS}
            loaders = {way: loader(way, images, augment, options.batch, workers) for way in WAYS}
            for number in range(options.rounds + 1):
                for way, batches in loaders.items():
                    used, started = cpu_s(), time.perf_counter()
                    count = sum(len(labels) for _, labels in batches)
                    if number:  # the first round starts the workers
                        rates[way].append(count / (time.perf_counter() - started))
                        per_core[way].append(count / (cpu_s() - used))
            del loaders, batches
            gc.collect()  # ends the workers
            rows.append(
                {
                    "workers": workers,
                    "images_per_s": {way: measuring.spread(rates[way], 1) for way in WAYS},
                    "images_per_cpu_s": {way: measuring.spread(per_core[way], 1) for way in WAYS},
                }
            )
        measured = {"parts_ms": parts(images, augment), "decoders": decoders(images), "halved": halved(augment)}
    measuring.save(
        options.out,
        "loading",
        {
            "images": options.images,
            "batch": options.batch,
            "repeats": augment.repeats,
            "jpeg_kb": round(size / 1e3, 1),
            "results": rows,
            **measured,
            **({"note": options.note} if options.note else {}),
        },
    )


if __name__ == "__main__":
    main()
