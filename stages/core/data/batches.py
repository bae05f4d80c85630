"""Batches of images under a model's own evaluation transform, in the order of the files."""

from typing import Any

import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from stages.core.base.errors import UserError
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.runtime.distributed import World

Batch = tuple[Tensor, Tensor]

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


def evaluation_batches(
    images: ImageList, model: nn.Module, *, batch: int, workers: int, world: World | None = None
) -> Loader | list[Batch]:
    """This process's batches in the order of the files, under the model's own evaluation transform.

    A small split is decoded once and held on the device.

    Raises:
        UserError: there are fewer images than processes.
    """
    if world is not None and len(images.files) < world.size:
        raise UserError(f"{len(images.files)} images are too few for {world.size} processes; set PROCESSES to less")
    whole = Images(images, create_transform(**resolve_model_data_config(model)))
    dataset = whole if world is None or world.size == 1 else Subset(whole, world.share(len(whole)))
    loader = Loader(dataset, workers=workers, batch_size=batch, persistent_workers=workers > 0)
    sample, _ = whole[0]
    held = sample.numel() * sample.element_size() * len(dataset) <= HELD_BYTES
    if not held:
        return loader
    device = torch.device("cpu") if world is None else world.device
    return [(images.to(device), labels.to(device)) for images, labels in loader]
