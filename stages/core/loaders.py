"""Batches of images for training and evaluation, the same ones for any number of worker processes."""

import ctypes
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, resolve_model_data_config
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, get_worker_info

from stages.core.dataset import ImageList
from stages.core.distributed import World
from stages.core.errors import UserError

Batch = tuple[Tensor, Tensor]
Key = tuple[int, int, int, int]  # seed, epoch, index of the image, which of its repeats
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies
HELD_BYTES = 256 * 2**20  # evaluation batches up to this size are decoded once and held on the device


class Images(Dataset[tuple[Tensor, int]]):
    """The images of one split under an evaluation transform, in the order of `files`.

    Args:
        images: files and labels.
        transform: from a PIL image to an array or a tensor [3, height, width].
    """

    def __init__(self, images: ImageList, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images.sample(index)
        return self.transform(image), label


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


class EpochSampler(Sampler[list[Key]]):
    """The keys of one epoch's images that this process takes, in pieces that fit the device.

    The images of a global batch depend on seed and epoch alone. Each process takes its own consecutive part
    of every global batch, and cuts it into equal pieces. With repeated augmentation an image stands
    `repeats` times in a row, each time augmented anew, and an epoch still has as many images as the split:
    it sees a part of the split's images, as DeiT's does.

    Args:
        images: of the split.
        seed: of the order.
        batch: images of a global batch; an incomplete last one is left out.
        world: the processes that share every global batch; this one takes its part.
        device_batch: the most images that a process takes at a time; None for no limit.
        steps: the most global batches of an epoch; None for no limit.
        repeats: how often an image stands in an epoch.

    Attributes:
        piece: images that the device takes at a time.
        pieces: how many pieces in turn make this process's part of a global batch.

    Raises:
        UserError: there are fewer images than one batch takes, or the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        images: int,
        seed: int,
        *,
        batch: int,
        world: World,
        device_batch: int | None = None,
        steps: int | None = None,
        repeats: int = 1,
    ) -> None:
        if images < batch:
            raise UserError(f"{images} training images make no batch of {batch}; lower recipe.global_batch")
        if batch % world.size:
            raise UserError(
                f"recipe.global_batch {batch} cannot be shared evenly by {world.size} processes; set PROCESSES to a "
                "divisor of it"
            )
        self.images, self.seed, self.batch, self.world, self.repeats = images, seed, batch, world, repeats
        self.part = world.share(batch)
        limit = min(len(self.part), device_batch or len(self.part))
        self.piece = max(size for size in range(1, limit + 1) if len(self.part) % size == 0)
        self.pieces = len(self.part) // self.piece
        self.steps = min(images // batch, steps or images)
        self.epoch = 0
        self.start = 0  # global batches of the epoch that are passed over, and not loaded

    def __len__(self) -> int:
        return (self.steps - self.start) * self.pieces

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        for start in range(self.start * self.batch, self.steps * self.batch, self.batch):
            for first in range(start + self.part.start, start + self.part.stop, self.piece):
                positions = (divmod(position, self.repeats) for position in range(first, first + self.piece))
                yield [(self.seed, self.epoch, int(order[image]), repeat) for image, repeat in positions]


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


def follow_parent(_: int) -> None:
    """Make a loading process end when its parent does, not when a signal comes to the parent's whole group.

    So a training process that is told to end can save first.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
        loader = DataLoader(
            AugmentedImages(images, transform),
            batch_sampler=sampler,
            collate_fn=fast_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=follow_parent,
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


def evaluation_batches(
    images: ImageList, model: nn.Module, *, batch: int, workers: int, world: World | None = None
) -> DataLoader[Any] | list[Batch]:
    """This process's batches in the order of the files, under the model's own evaluation transform.

    A small split is decoded once and held on the device.

    Raises:
        UserError: there are fewer images than processes.
    """
    if world is not None and len(images.files) < world.size:
        raise UserError(f"{len(images.files)} images are too few for {world.size} processes; set PROCESSES to less")
    whole = Images(images, create_transform(**resolve_model_data_config(model)))
    dataset = whole if world is None or world.size == 1 else Subset(whole, world.share(len(whole)))
    loader = DataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=follow_parent,
    )
    sample, _ = whole[0]
    held = sample.numel() * sample.element_size() * len(dataset) <= HELD_BYTES
    if not held:
        return loader
    device = torch.device("cpu") if world is None else world.device
    return [(images.to(device), labels.to(device)) for images, labels in loader]
