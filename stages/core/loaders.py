"""Batches of images for training and evaluation, the same ones for any number of worker processes."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.data.loader import PrefetchLoader, fast_collate
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, get_worker_info

from stages.core.dataset import ImageList
from stages.core.errors import UserError

Batch = tuple[Tensor, Tensor]
HELD_BYTES = 256 * 2**20  # evaluation batches up to this size are decoded once and held in memory


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
    """The images of one split under a random training transform; keys are (seed, epoch, index).

    Every random choice is a function of the key alone: not of the worker that makes it, of the
    images before it, nor of whether training was interrupted.
    """

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:  # type: ignore[override]
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


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Keys (seed, epoch, index) of one epoch, in an order that depends on seed and epoch alone."""

    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        return ((self.seed, self.epoch, index) for index in order.tolist())


class TrainingBatches:
    """Augmented batches on a device, epoch after epoch; an incomplete last batch is left out.

    Workers make 8-bit images; timm's prefetching loader copies, normalises and erases them on the device.

    Args:
        images: files and labels.
        model: gives input size, mean and std.
        augment: scale, ratio, hflip, color_jitter, auto_augment, random_erasing, interpolation, as for timm's
            `create_transform`.
        batch: images of a batch.
        seed: of order and augmentation.
        workers: loading processes.
        device: where the batches go.

    Raises:
        UserError: there are fewer images than one batch takes.
    """

    def __init__(
        self,
        images: ImageList,
        model: nn.Module,
        *,
        augment: dict[str, Any],
        batch: int,
        seed: int,
        workers: int,
        device: torch.device,
    ) -> None:
        if len(images.files) < batch:
            raise UserError(f"{len(images.files)} training images make no batch of {batch}; lower recipe.global_batch")
        config = resolve_model_data_config(model)
        options = dict(augment)
        erasing = options.pop("random_erasing")
        transform = create_transform(config["input_size"], is_training=True, use_prefetcher=True, **options)
        self.sampler = EpochSampler(len(images.files), seed)
        loader = DataLoader(
            AugmentedImages(images, transform),
            batch_sampler=BatchSampler(self.sampler, batch, drop_last=True),  # type: ignore[arg-type]
            collate_fn=fast_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else every epoch would draw from the model's random state
        )
        self.loader = PrefetchLoader(
            loader, mean=config["mean"], std=config["std"], device=device, re_prob=erasing, re_mode="pixel"
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of one epoch, counted from 0."""
        self.sampler.epoch = number
        return self.loader


def evaluation_batches(images: ImageList, model: nn.Module, *, batch: int, workers: int) -> Iterable[Batch]:
    """Batches in the order of the files, under the model's own evaluation transform.

    A small split is decoded once and held in memory.
    """
    dataset = Images(images, create_transform(**resolve_model_data_config(model)))
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    sample, _ = dataset[0]
    held = sample.numel() * sample.element_size() * len(dataset) <= HELD_BYTES
    return list(loader) if held else loader
