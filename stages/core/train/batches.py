"""Training batches, augmented in loading processes; they do not depend on the number of those processes."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, resolve_model_data_config
from timm.data.loader import PrefetchLoader
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.utils.data import get_worker_info
from torchvision.transforms import Compose

from stages.core.config.schema import Augment
from stages.core.data.batches import Batch, Images
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.train.sampler import EpochSampler, Key


class AugmentedImages(Images):
    """The images of one split under a random training transform; keys are (seed, epoch, index, repeat).

    Every random choice is a function of the key alone: it does not depend on the loading process, on the images before
    it, or on an interruption of training. The last image is kept decoded for its next repeats, which follow in the same
    batch but where a batch ends between them.
    """

    def __init__(self, images: ImageList, transform: Any) -> None:
        super().__init__(images, transform)
        self.decoded: dict[int, tuple[Image.Image, int]] = {}  # the last image and its label, by its index

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:  # type: ignore[override]
        index = key[2]
        if index not in self.decoded:
            self.decoded = {index: self.images.sample(index)}
        image, label = self.decoded[index]
        in_training_process = get_worker_info() is None  # its random state must not change by loading
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


def to_planes(image: Image.Image) -> Tensor:
    """An RGB image as 8-bit planes [3, height, width].

    Pillow writes each plane in one pass over the pixels; torchvision's `pil_to_tensor` leaves the colours side by side,
    and copying them into a batch, value by value, takes longer than all of this.
    """
    planes = bytearray().join(image.tobytes("raw", band) for band in image.getbands())
    return torch.frombuffer(planes, dtype=torch.uint8).view(-1, image.height, image.width)


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that models on a device draw from; seeding it does not wait for the device."""
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's operation, also at its highest magnitude, which keeps 0 bits: the image becomes black.

    Pillow 13 refuses 0 bits; without this, the paper's `rand-m9-mstd0.5-inc1` fails at one image in some 1,700.
    """
    return _posterize(image, bits, **options) if bits > 0 else Image.new(image.mode, image.size)


_posterize = auto_augment.posterize

auto_augment.NAME_TO_OP |= {name: posterize for name, op in auto_augment.NAME_TO_OP.items() if op is _posterize}


class KeyedErasing:
    """timm's random erasing, on the device, with random choices that depend on each image's key alone.

    For the same key, the noise on a CPU differs from that on a GPU, because their generators differ.

    Args:
        probability: of erasing a part of an image.
        device: of the images.
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
    """Augmented batches of each epoch, on the device.

    Loading processes decode and augment 8-bit images; timm's prefetching loader copies them to the device and
    normalises them there.

    Args:
        images: files and labels.
        model: its data configuration gives input size, mean and std.
        sampler: the keys of each batch's images, and this process's share.
        augment: a section of params, without those of its keys that only images on the device know.
        workers: loading processes.
    """

    def __init__(
        self, images: ImageList, model: nn.Module, sampler: EpochSampler, *, augment: Augment, workers: int
    ) -> None:
        config = resolve_model_data_config(model)
        device = sampler.world.device
        # By the names of timm's `create_transform`.
        options = augment.model_dump(exclude={"on_device", "padding", "repeats", "random_erasing"})
        *steps, _ = create_transform(config["input_size"], is_training=True, separate=True, **options)
        loader = Loader(
            AugmentedImages(images, Compose([*steps, to_planes])),
            workers=workers,
            batch_sampler=sampler,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # by default each epoch would draw from the model's random state
        )
        self.sampler = sampler
        self.loader = PrefetchLoader(loader, mean=config["mean"], std=config["std"], device=device)
        self.erasing = KeyedErasing(augment.random_erasing, device) if augment.random_erasing else None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's micro-batches of one epoch, those of each global batch from batch `start` on."""
        self.sampler.epoch, self.sampler.start = number, start
        for keys, (images, labels) in zip(self.sampler, self.loader, strict=True):
            yield (self.erasing(images, keys) if self.erasing else images), labels
