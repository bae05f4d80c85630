"""Training batches of small images that are all kept on the device and augmented there.

No loading process is needed. The random numbers of an epoch are one table with a row per image, drawn from (seed,
epoch) on the CPU: how an image is augmented does not depend on the rest of its batch, on the number of processes and
micro-batches, or on the device.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.config.schema import Augment
from stages.core.data.batches import Batch, Images
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.train.sampler import EpochSampler

EPOCHS_AT_MOST = 100_003  # the generator's seed is seed * EPOCHS_AT_MOST + epoch
DECODED = 512  # images per batch while all of them are decoded
ERASED_AREA = (0.02, 1 / 3)  # of an erased box, as a share of the image; timm's default
ERASED_RATIO = (0.3, 1 / 0.3)  # aspect ratio of an erased box; timm's default
NOISE = 2**18  # normal numbers per epoch; an erased image takes a slice of its own size from a random place
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue, torchvision's
COLUMNS = (
    "area",
    "ratio",
    "top",
    "left",
    "flip",
    "brightness",
    "contrast",
    "saturation",
    "erase",
    "erase_area",
    "erase_ratio",
    "erase_top",
    "erase_left",
    "noise",
)


@dataclass(frozen=True)
class Draws:
    """Uniform random numbers in [0, 1) by purpose, each [images]."""

    table: Tensor  # [images, columns]

    def __getitem__(self, purpose: str) -> Tensor:
        return self.table[:, COLUMNS.index(purpose)]

    def between(self, purpose: str, low: float, high: float) -> Tensor:
        """Numbers uniform in [low, high)."""
        return low + (high - low) * self[purpose]

    def log_between(self, purpose: str, low: float, high: float) -> Tensor:
        """Numbers in [low, high) whose logarithms are uniform."""
        return self.between(purpose, math.log(low), math.log(high)).exp()

    def whole(self, purpose: str, limit: Tensor) -> Tensor:
        """Integers from 0 to `limit` inclusive, [images]."""
        return (self[purpose] * (limit + 1)).floor()


def crop(augment: Augment, images: Tensor, draws: Draws) -> Tensor:
    """Cropped and flipped images, [images, 3, size, size] in float32, in 0 to 255 (bicubic may overshoot).

    A crop box has a share of the image's area drawn from `scale` and an aspect ratio drawn from `ratio`, clipped to the
    image with `padding` black pixels around it, at a random position; it is resized to the image's size.
    """
    size = images.shape[-1]
    reach = size + 2 * augment.padding
    area = draws.between("area", *augment.scale) * size**2
    ratio = draws.log_between("ratio", *augment.ratio)
    height = (area / ratio).sqrt().round().clamp(1, reach)
    width = (area * ratio).sqrt().round().clamp(1, reach)
    top = draws.whole("top", reach - height) - augment.padding
    left = draws.whole("left", reach - width) - augment.padding
    rows = _sources(top, height, size)
    columns = _sources(left, width, size)
    columns = torch.where((draws["flip"] < augment.hflip)[:, None], columns.flip(1), columns)
    # grid_sample takes x before y, and -1 to 1 from the first pixel's outer edge to the last one's.
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1
    )  # [images, rows, columns, 2]
    grid = (2 * grid + 1) / size - 1
    return F.grid_sample(images.float(), grid, augment.interpolation, "zeros", align_corners=False)


def recolour(augment: Augment, images: Tensor, draws: Draws) -> Tensor:
    """Images in 0 to 255 with changed brightness, contrast and saturation, in this order.

    Each is changed by a factor of 1 ± `color_jitter`.
    """
    if not augment.color_jitter:
        return images
    low, high = max(0.0, 1 - augment.color_jitter), 1 + augment.color_jitter
    factors = [
        draws.between(purpose, low, high)[:, None, None, None] for purpose in ("brightness", "contrast", "saturation")
    ]
    images = (images * factors[0]).clamp(0, 255)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = torch.lerp(mean, images, factors[1]).clamp(0, 255)
    return torch.lerp(_grey(images), images, factors[2]).clamp(0, 255)


def erase(augment: Augment, images: Tensor, draws: Draws, noise: Tensor) -> Tensor:
    """Normalised images, some of them with a box of noise.

    Args:
        augment: a section of params.
        images: [images, 3, size, size].
        draws: of these images.
        noise: standard normal numbers, [numbers].
    """
    if not augment.random_erasing:
        return images
    size = images.shape[-1]
    area = draws.between("erase_area", *ERASED_AREA) * size**2
    ratio = draws.log_between("erase_ratio", *ERASED_RATIO)
    height = (area * ratio).sqrt().round().clamp(max=size - 1)
    width = (area / ratio).sqrt().round().clamp(max=size - 1)
    inside = _inside(draws.whole("erase_top", size - height), height, size)[:, None, :, None]
    inside = inside & _inside(draws.whole("erase_left", size - width), width, size)[:, None, None, :]
    inside = inside & (draws["erase"] < augment.random_erasing)[:, None, None, None]
    values = images[0].numel()
    first = (draws["noise"] * (len(noise) - values)).long()
    own = noise[first[:, None] + torch.arange(values, device=images.device)].view_as(images)
    return torch.where(inside, own, images)


def _sources(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Source positions of the pixel centres when an interval of pixels is resized to `size` pixels.

    Positions are clamped to the centres of the interval's first and last pixel.

    Args:
        start, length: the interval of each image, in pixels, [images].
        size: pixels after resizing.

    Returns:
        [images, size].
    """
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    places = centres * length[:, None] - 0.5
    return start[:, None] + torch.minimum(places.clamp(min=0), length[:, None] - 1)


def _inside(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Which of the positions 0 to `size` - 1 lie in each image's interval, [images, size]."""
    positions = torch.arange(size, device=start.device)
    return (positions >= start[:, None]) & (positions < (start + length)[:, None])


def _grey(images: Tensor) -> Tensor:
    """Brightness [images, 1, size, size] of colour images."""
    return (images * _grey_weights(images.device)).sum(1, keepdim=True)


@functools.cache  # a copy to the device waits for all its work
def _grey_weights(device: torch.device) -> Tensor:
    return torch.tensor(GREY, device=device).view(1, 3, 1, 1)


class Pixels(Images):
    """The images of one split as 8-bit tensors, [3, size, size].

    Args:
        images: files and labels.
        size: of every image.
    """

    def __init__(self, images: ImageList, size: int) -> None:
        super().__init__(images, transform=None)
        self.size = size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images.sample(index)
        if image.size != (self.size, self.size):
            raise UserError(
                f"{self.images.name(index)} is {image.width}×{image.height}, and images that stay on the device must "
                f"be {self.size}×{self.size}; resize them, or set recipe.augment.on_device: false"
            )
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(self.size, self.size, 3).permute(2, 0, 1), label


class ResidentBatches:
    """Augmented batches like those of `TrainingBatches`, of images that are all kept on the device.

    Args:
        images: files and labels; every image has the model's input size.
        model: its data configuration gives input size, mean and std.
        sampler: the keys of each batch's images, and this process's share; each process holds all images.
        augment: a section of params.
        workers: processes that decode the images, once.

    Raises:
        UserError: an image does not have the input size, or the device has too little memory for all images.
    """

    def __init__(
        self, images: ImageList, model: nn.Module, sampler: EpochSampler, *, augment: Augment, workers: int
    ) -> None:
        config = resolve_model_data_config(model)
        self.sampler, self.augment, self.device = sampler, augment, sampler.world.device
        loader = Loader(Pixels(images, config["input_size"][-1]), workers=workers, batch_size=DECODED)
        try:
            parts = [(pixels.to(self.device), labels) for pixels, labels in loader]
            self.images = torch.cat([pixels for pixels, _ in parts])  # [images, 3, size, size], 8 bits
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.device} has too little memory for {len(images.files)} images; set recipe.augment.on_device: "
                "false"
            ) from None
        self.labels = torch.cat([labels for _, labels in parts]).to(self.device)
        self.mean, self.std = (_channels(config[key], self.device) for key in ("mean", "std"))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's micro-batches of one epoch, those of each global batch from batch `start` on."""
        sampler = self.sampler
        generator = torch.Generator().manual_seed(sampler.seed * EPOCHS_AT_MOST + number)
        rows = len(self.images) * sampler.repeats
        table = torch.rand(rows, len(COLUMNS), generator=generator).to(self.device)
        noise = torch.randn(max(NOISE, 2 * self.images[0].numel()), generator=generator).to(self.device)
        sampler.epoch, sampler.start = number, start
        for keys in sampler:
            places = torch.tensor([(image, image * sampler.repeats + repeat) for _, _, image, repeat in keys])
            chosen, row = places.to(self.device, non_blocking=True).unbind(1)
            yield self.augmented(self.images[chosen], Draws(table[row]), noise), self.labels[chosen]

    def augmented(self, images: Tensor, draws: Draws, noise: Tensor) -> Tensor:
        """Augmented and normalised images, [images, 3, size, size] in float32."""
        images = recolour(self.augment, crop(self.augment, images, draws), draws)
        return erase(self.augment, (images - self.mean) / self.std, draws, noise)


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    """Mean or std, of images in 0 to 1, for images in 0 to 255: [1, 3, 1, 1]."""
    return 255 * torch.tensor(values, device=device).view(1, 3, 1, 1)
