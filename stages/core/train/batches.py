"""Batches of images for training and evaluation, the same ones for any number of worker processes."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, resolve_model_data_config
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from stages.core.data.batches import Batch, Images
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.train.sampler import EpochSampler, Key


class AugmentedImages(Images):
    """The images of one split under a random training transform; keys are (seed, epoch, index, repeat).

    Every random choice is a function of the key alone: not of the worker that makes it, of the
    images before it, nor of whether training was interrupted.
    """

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:  # type: ignore[override]
        image, label = self.images.sample(key[2])
        in_training_process = get_worker_info() is None  # whose own draws go on as if nothing had been loaded
        if in_training_process:
            draws = random.getstate(), torch.get_rng_state()
        random.seed("/".join(map(str, key)))
        np.random.seed(random.getrandbits(32))  # noqa: NPY002  timm draws from numpy's global state
        torch.default_generator.manual_seed(random.getrandbits(32))  # torch.manual_seed takes 0.3 ms
        augmented = self.transform(image)
        if in_training_process:
            random.setstate(draws[0])
            torch.set_rng_state(draws[1])
        return augmented, label


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that models on a device draw from; to seed it takes microseconds and no synchronisation."""
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's operation, which asks Pillow for no bits at all at its highest magnitude: a black image.

    Pillow 13 refuses to; without this the paper's `rand-m9-mstd0.5-inc1` fails at one image in some 1,700.
    """
    return _posterize(image, bits, **options) if bits > 0 else Image.new(image.mode, image.size)


_posterize = auto_augment.posterize

auto_augment.NAME_TO_OP |= {name: posterize for name, op in auto_augment.NAME_TO_OP.items() if op is _posterize}


class KeyedErasing:
    """timm's random erasing, on the device, with draws that depend on each image's key alone.

    The noise of equal keys differs between a CPU and a GPU, whose generators differ.

    Args:
        probability: of an image.
        device: where the images are.
    """

    def __init__(self, probability: float, device: torch.device) -> None:
        self.erase = RandomErasing(probability, mode="pixel", device=device)
        self.generator = default_generator(device)

    def __call__(self, images: Tensor, keys: Sequence[Key]) -> Tensor:
        """Erase parts of normalised images [images, 3, height, width], in place."""
        before = self.generator.get_state()
        for image, key in zip(images, keys, strict=True):
            random.seed("/".join(map(str, ("erase", *key))))
            self.generator.manual_seed(random.getrandbits(32))
            self.erase(image)
        self.generator.set_state(before)
        return images


class TrainingBatches:
    """Augmented batches on a device, epoch after epoch.

    Workers make 8-bit images; timm's prefetching loader copies and normalises them on the device.

    Args:
        images: files and labels.
        model: gives input size, mean and std.
        sampler: what each batch is of, and for which process.
        augment: scale, ratio, hflip, color_jitter, auto_augment, random_erasing and interpolation, as for timm's
            `create_transform`.
        workers: loading processes.
    """

    def __init__(
        self, images: ImageList, model: nn.Module, sampler: EpochSampler, *, augment: dict[str, Any], workers: int
    ) -> None:
        config = resolve_model_data_config(model)
        device = sampler.world.device
        options = dict(augment)
        erasing = options.pop("random_erasing")
        transform = create_transform(config["input_size"], is_training=True, use_prefetcher=True, **options)
        loader = Loader(
            AugmentedImages(images, transform),
            workers=workers,
            batch_sampler=sampler,
            collate_fn=fast_collate,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else every epoch would draw from the model's random state
        )
        self.sampler = sampler
        self.loader = PrefetchLoader(loader, mean=config["mean"], std=config["std"], device=device)
        self.erasing = KeyedErasing(erasing, device) if erasing else None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """This process's pieces of one epoch, counted from 0: several for each global batch from `start` on."""
        self.sampler.epoch, self.sampler.start = number, start
        for keys, (images, labels) in zip(self.sampler, self.loader, strict=True):
            yield (self.erasing(images, keys) if self.erasing else images), labels
