"""Batches from loading processes are what timm's own transform and collation make of every image, decoded anew."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.loader import fast_collate

from stages.core.data.image_list import ImageList
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches
from stages.core.train.sampler import EpochSampler
from tests.sections import make_augment

REPEATS, BATCH = 3, 8  # a batch ends between the repeats of an image
AUGMENT = {  # by the names of timm's `create_transform`
    "scale": [0.08, 1.0],
    "ratio": [0.75, 4 / 3],
    "hflip": 0.5,
    "color_jitter": 0.4,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "interpolation": "bicubic",
}


@dataclass(frozen=True)
class CountedImages(ImageList):
    """Images that note which of them were decoded."""

    decoded: list[int] = field(default_factory=list)

    def sample(self, index):
        self.decoded.append(index)
        return super().sample(index)


@pytest.fixture
def photos(tmp_path, rng):
    """24 JPEGs of several sizes, some of them grey."""
    files = [f"{index:02d}.jpg" for index in range(24)]
    for index, name in enumerate(files):
        shape = (30 + index, 40, 3) if index % 4 else (30 + index, 40)
        Image.fromarray(rng.integers(0, 256, size=shape, dtype=np.uint8)).save(tmp_path / name)
    return CountedImages(tmp_path, files, [index % 10 for index in range(24)])


@pytest.fixture
def make_batches(photos, make_student):
    def make(workers=0, **changes):
        augment = make_augment(**{**AUGMENT, **changes}, random_erasing=0.0)
        world = World(0, 1, torch.device("cpu"))
        sampler = EpochSampler(24, 0, batch=BATCH, world=world, repeats=REPEATS)
        return TrainingBatches(photos, make_student("baseline"), sampler, augment=augment, workers=workers)

    return make


@pytest.mark.parametrize(
    ("workers", "augment"),
    [
        (0, {}),
        (2, {}),
        (0, {"auto_augment": None, "interpolation": "bilinear"}),
        (0, {"auto_augment": "augmix-m5-w4-d2"}),
    ],
    ids=str,
)
def test_batches_are_those_of_images_decoded_for_every_repeat(make_batches, photos, workers, augment):
    batches = make_batches(workers, **augment)
    transform = create_transform((3, 8, 8), is_training=True, use_prefetcher=True, **{**AUGMENT, **augment})
    mean, std = (
        torch.tensor([255 * value for value in values]).view(3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    found = list(batches.epoch(1))
    assert len(found) == 3
    for keys, (images, labels) in zip(batches.sampler, found, strict=True):
        expected = []
        for key in keys:
            random.seed("/".join(map(str, key)))
            np.random.seed(random.getrandbits(32))  # noqa: NPY002
            torch.manual_seed(random.getrandbits(32))
            image = Image.open(photos.folder / photos.files[key[2]]).convert("RGB")
            expected.append((transform(image), photos.labels[key[2]]))
        pixels, classes = fast_collate(expected)
        assert torch.equal(images, (pixels.float() - mean) / std) and torch.equal(labels, classes)


def test_an_image_is_decoded_once_for_its_repeats(make_batches, photos):
    batches = make_batches()
    for _ in batches.epoch(0):
        pass
    assert len(photos.decoded) == len(set(photos.decoded)) == 24 / REPEATS
