"""The order of training images, a function of seed and epoch alone, and each process's share of every batch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import World

Key = tuple[int, int, int, int]  # seed, epoch, index of the image, which of its repeats


class EpochSampler(Sampler[list[Key]]):
    """Yields the keys of this process's images in one epoch, in micro-batches that fit the device.

    The images of a global batch depend on seed and epoch alone. Each process takes a consecutive part of every global
    batch and divides it into equal micro-batches. With repeated augmentation an image occurs `repeats` times in a row,
    each time augmented anew, and an epoch still has as many images as the split: it contains 1 / `repeats` of the
    split's images, as DeiT's does.

    Args:
        images: number of images in the split.
        seed: of the order.
        batch: images in a global batch; an incomplete last batch is dropped.
        world: the processes that share every global batch, of which this is one.
        device_batch: largest number of images that a process takes at a time; None for no limit.
        steps: largest number of global batches in an epoch; None for no limit.
        repeats: how often an image occurs in an epoch.

    Attributes:
        part: positions in a global batch that this process takes.
        micro_batch: number of images that it takes at a time.
        micro_batches: number of micro-batches in its part.
        steps: number of global batches in an epoch.
        epoch, start: the epoch to iterate over, and its first global batch: those before are skipped, not loaded.

    Raises:
        UserError: there are fewer images than a batch needs, or the processes cannot share a batch evenly.
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
        self.micro_batch = max(size for size in range(1, limit + 1) if len(self.part) % size == 0)
        self.micro_batches = len(self.part) // self.micro_batch
        self.steps = min(images // batch, steps or images)
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return (self.steps - self.start) * self.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        for start in range(self.start * self.batch, self.steps * self.batch, self.batch):
            for first in range(start + self.part.start, start + self.part.stop, self.micro_batch):
                positions = (divmod(position, self.repeats) for position in range(first, first + self.micro_batch))
                yield [(self.seed, self.epoch, int(order[image]), repeat) for image, repeat in positions]
