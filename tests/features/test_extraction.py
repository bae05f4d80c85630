"""Several processes write the features that one would, and no file is written by two of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.features import extraction, store
from stages.core.runtime.distributed import World

CPU = torch.device("cpu")
IMAGES = 7


class Sequential(World):
    """One of several processes that run one after the other, the first one last."""

    def wait(self):
        pass


@pytest.fixture
def extract(make_student, tmp_path):
    """Extract seven images, one at a time, by some processes; returns the folder."""
    model = make_student("baseline").eval()
    images = torch.randn(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(processes, *, layerwise=True, images=images):
        folder = tmp_path / f"by-{processes}"
        folder.mkdir()
        for rank in reversed(range(processes)):
            world = Sequential(rank, processes, CPU)
            extraction.extract(
                model,
                [(images[index : index + 1], None) for index in world.share(IMAGES)],
                folder,
                images=IMAGES,
                world=world,
                layerwise=layerwise,
                provenance={"architecture": "deit", "weights": "random"},
            )
        return folder

    return run


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_parts_of_several_processes_are_joined_to_the_files_of_one(extract, processes):
    alone, together = extract(1), extract(processes)
    names = sorted(path.name for path in alone.iterdir())
    assert names == ["energies_00.npy", "features.json", "layer_01.npy"]
    assert sorted(path.name for path in together.iterdir()) == names
    for name in names:
        assert (together / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_file_is_the_one_that_numpy_writes(extract):
    folder = extract(1, layerwise=False)
    written = io.BytesIO()
    np.save(written, np.array(store.last_block(folder)), allow_pickle=False)
    assert (folder / "layer_01.npy").read_bytes() == written.getvalue()


def test_each_process_opens_files_of_its_own_until_all_are_written(extract, monkeypatch):
    opened = []
    original = Path.open

    def recorded(path, mode="r", *arguments, **options):
        if path.name.startswith("layer") and mode != "rb":
            opened.append((path.name, mode))
        return original(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", recorded)
    extract(2, layerwise=False)
    assert opened == [("layer_01.1", "wb"), ("layer_01.npy", "wb"), ("layer_01.npy", "ab")]


def test_a_feature_that_is_not_finite_names_block_and_image(extract):
    images = torch.zeros(IMAGES, 3, 8, 8)
    images[5] = float("nan")
    with pytest.raises(UserError, match=r"^block 0 gives a feature that is not finite for image 5 of the sample$"):
        extract(2, images=images)
