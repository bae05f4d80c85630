"""Training images that cannot be decoded: skipped and counted, or named."""

import numpy as np
import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.data.folders import Folders
from stages.core.data.image_list import ImageList
from stages.core.data.unreadable import SkippingImages
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches
from stages.core.train.sampler import EpochSampler
from tests.sections import make_augment

AUGMENT = make_augment(color_jitter=0.0, auto_augment=None, random_erasing=0.0, interpolation="bicubic")


def epoch(images, model, workers, number=0):
    """All batches of one epoch: images and labels."""
    sampler = EpochSampler(len(images.files), 0, batch=4, world=World(0, 1, torch.device("cpu")))
    batches = list(TrainingBatches(images, model, sampler, augment=AUGMENT, workers=workers).epoch(number))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


FILES = 12  # of the tree's training split


@pytest.fixture
def broken(tree, tmp_path):
    """The training images, those at some positions damaged, under the policy `skip`."""

    def make(*positions, journal="journal.txt", fresh=False):
        listed = Folders(tree).scan("train")
        for position in positions:
            file = tree / "train" / listed.files[position]
            file.write_bytes(file.read_bytes()[: 0 if position == 0 else 40])
        images = Folders(tree).open("train", list(listed.files), listed.classes)
        return SkippingImages.of(images, tmp_path / journal, fresh=fresh)

    return make


def same(found, expected):
    return np.array_equal(np.asarray(found[0]), np.asarray(expected[0])) and found[1] == expected[1]


@pytest.mark.parametrize(
    ("positions", "asked", "taken"),
    [((0,), 0, 1), ((11,), 11, 0), ((3, 4, 5), 3, 6), ((3, 4, 5), 4, 6), ((10, 11, 0), 10, 1), ((5,), 4, 4)],
)
def test_the_next_readable_image_takes_the_place_with_its_label(broken, positions, asked, taken):
    images = broken(*positions)
    whole = ImageList(images.folder, images.files, images.labels)
    for _ in range(2):
        assert same(images.sample(asked), whole.sample(taken))
    expected = [images.files[p % FILES] for p in range(asked, asked + FILES) if p % FILES in positions]
    passed = (taken - asked) % FILES
    assert images.unreadable() == sorted(expected[:passed])


def test_nothing_changes_where_all_is_readable(broken):
    images = broken()
    whole = ImageList(images.folder, images.files, images.labels)
    assert all(same(images.sample(index), whole.sample(index)) for index in range(FILES))
    assert images.unreadable() == whole.unreadable() == []


def test_a_list_without_a_readable_image_ends(broken):
    with pytest.raises(UserError, match=r"none of the 12 images of .*train can be decoded"):
        broken(*range(FILES)).sample(7)


def test_missing_files_are_never_skipped(broken):
    images = broken()
    (images.folder / images.files[2]).unlink()
    with pytest.raises(UserError, match=r"ant/002\.png is missing"):
        images.sample(2)


@pytest.mark.parametrize("positions", [(0,), (11,), (0, 5, 6, 11)])
def test_workers_skip_the_same_images(broken, make_student, positions):
    model = make_student("lift")
    alone, several = broken(*positions), broken(journal="other.txt")
    for number in range(2):
        for found, wanted in zip(epoch(several, model, 2, number), epoch(alone, model, 0, number), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    names = sorted(alone.files[position] for position in positions)
    assert alone.unreadable() == several.unreadable() == names


def test_an_interrupted_run_remembers_and_a_fresh_one_forgets(broken):
    broken(3).sample(3)
    resumed = broken()
    assert resumed.unreadable() == [resumed.files[3]]
    resumed.sample(3)
    assert len(resumed.unreadable()) == 1
    assert broken(fresh=True).unreadable() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_names_the_image(broken, make_student, workers):
    images = broken(5).images
    with pytest.raises(UserError, match=r"bee/001\.png cannot be read as an image"):
        epoch(images, make_student("lift"), workers)
