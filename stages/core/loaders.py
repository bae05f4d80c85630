"""Batches of images for training and evaluation, the same ones for any number of worker processes."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, get_worker_info

from stages.core.dataset import ImageList, read_image
from stages.core.errors import UserError

Batch = tuple[Tensor, Tensor]
HELD_BYTES = 256 * 2**20  # evaluation batches up to this size are decoded once and held in memory


class Images(Dataset[tuple[Tensor, int]]):
    """The images of one split under an evaluation transform, in the order of `files`.

    Args:
        images: files and labels.
        transform: from a PIL image to a tensor [3, height, width].
    """

    def __init__(self, images: ImageList, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self._read(index)), self.images.labels[index]

    def _read(self, index: int) -> Image.Image:
        return read_image(self.images.folder / self.images.files[index])


class AugmentedImages(Images):
    """The images of one split under a random training transform; keys are (seed, epoch, index).

    Every random choice is a function of the key alone: not of the worker that makes it, of the
    images before it, nor of whether training was interrupted.
    """

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:  # type: ignore[override]
        index = key[2]
        image = self._read(index)
        state = torch.get_rng_state() if get_worker_info() is None else None
        random.seed("/".join(map(str, key)))
        np.random.seed(random.getrandbits(32))  # noqa: NPY002  timm draws from numpy's global state
        torch.manual_seed(random.getrandbits(32))
        augmented = self.transform(image)
        if state is not None:  # in the training process itself: the model's own draws stay as they were
            torch.set_rng_state(state)
        return augmented, self.images.labels[index]


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
    """Augmented batches, epoch after epoch; an incomplete last batch is left out.

    Raises:
        UserError: there are fewer images than one batch takes.
    """

    def __init__(self, images: AugmentedImages, *, batch: int, seed: int, workers: int, pin_memory: bool) -> None:
        if len(images) < batch:
            raise UserError(f"{len(images)} training images make no batch of {batch}; lower recipe.global_batch")
        self.sampler = EpochSampler(len(images), seed)
        self.loader = DataLoader(
            images,
            batch_sampler=BatchSampler(self.sampler, batch, drop_last=True),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of one epoch, counted from 0."""
        self.sampler.epoch = number
        return self.loader


def evaluation_transform(model: nn.Module) -> Any:
    """The model's own evaluation transform, from its timm data configuration."""
    return create_transform(**resolve_model_data_config(model))


def training_transform(model: nn.Module, augment: dict[str, Any]) -> Any:
    """timm's training transform at the model's size and normalisation.

    Args:
        model: gives input size, mean and std.
        augment: scale, ratio, hflip, color_jitter, auto_augment, random_erasing, interpolation.
    """
    config = resolve_model_data_config(model)
    options = dict(augment)
    return create_transform(
        config["input_size"],
        is_training=True,
        mean=config["mean"],
        std=config["std"],
        re_prob=options.pop("random_erasing"),
        re_mode="pixel",
        **options,
    )


def evaluation_batches(images: Images, *, batch: int, workers: int) -> Iterable[Batch]:
    """Batches in the order of the files; a small split is decoded once and held in memory."""
    loader = DataLoader(images, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    sample, _ = images[0]
    held = sample.numel() * sample.element_size() * len(images) <= HELD_BYTES
    return list(loader) if held else loader
