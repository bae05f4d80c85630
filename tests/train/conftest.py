import pytest

from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList


@pytest.fixture
def splits(tmp_path, make_split):
    """64 training and 16 validation images of four classes."""

    def listed(folder, images):
        split = scan(make_split(folder, ("ant", "bee", "cat", "dog"), images))
        return ImageList(folder, list(split.files), split.labels())

    return listed(tmp_path / "data/train", 16), listed(tmp_path / "data/val", 4)
