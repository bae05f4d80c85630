"""Batches to evaluate on: in the order of the files, and of a size that memory has room for."""

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stages.core.data import batches
from stages.core.data.batches import evaluation_batches
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList


class Blank(ImageList):
    """Images of one colour, which need no files."""

    def sample(self, index):
        return Image.new("RGB", (256, 256)), self.labels[index]


@pytest.fixture
def validation(tmp_path):
    """As many images as ImageNet's validation split has."""
    return Blank(tmp_path, ["blank"] * 50_000, [0] * 50_000)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("asked", "workers"), [(2048, 8), (2048, 32), (256, 64), (1, 0), (64, 1)])
def test_what_is_decoded_ahead_is_bounded_at_the_papers_scale(validation, make_student, asked, workers):
    model = make_student("baseline", img_size=224, patch_size=16)
    model.pretrained_cfg["input_size"] = (3, 224, 224)
    loader = evaluation_batches(validation, model, batch=asked, workers=workers)
    batch_bytes = loader.batch_size * 3 * 224**2 * 4
    assert loader.batch_size == min(asked, 111) and batch_bytes <= 64 * 2**20
    assert loader.num_workers <= workers and (loader.num_workers > 0) == (workers > 0)
    if workers:
        assert loader.num_workers * loader.prefetch_factor * batch_bytes <= 2**30
        assert loader.num_workers == min(workers, 2**30 // batch_bytes)
    assert len(loader) == -(-50_000 // loader.batch_size)


def test_batches_hold_the_same_images_whatever_their_size(tmp_path, make_split, make_student, monkeypatch):
    split = scan(make_split(tmp_path / "val", images=3))
    images = ImageList(tmp_path / "val", list(split.files), split.labels())
    held = evaluation_batches(images, make_student("baseline"), batch=9, workers=0)
    assert isinstance(held, list)
    monkeypatch.setattr(batches, "HELD_BYTES", 0)
    monkeypatch.setattr(batches, "BATCH_BYTES", 2 * 3 * 8 * 8 * 4)
    loaded = evaluation_batches(images, make_student("baseline"), batch=9, workers=0)
    assert isinstance(loaded, DataLoader)
    parts = list(loaded)
    assert [len(labels) for _, labels in parts] == [2, 2, 2, 2, 1]
    for position in range(2):
        assert torch.equal(torch.cat([part[position] for part in parts]), torch.cat([part[position] for part in held]))
