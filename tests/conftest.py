"""What the tests share: the committed results, small features, small trees of images, small models.

torch and timm are imported by the fixtures that need them: the process that hands tests out to workers needs neither.
"""

import io
import multiprocessing
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    import torch
    from torch import nn

# Threads of OpenMP that wait for each other sleep instead of spinning, so that tests side by side leave cores to each
# other; stages that tests start inherit this. It changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# OpenBLAS's threads spin for each other: on two busy cores, eigenvalues of 384×384 take 35 times the CPU time of one
# thread. The variable holds for what is loaded or started later, the limit for numpy, which is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
threadpool_limits(int(os.environ["OPENBLAS_NUM_THREADS"]), "blas")
collect_ignore = [] if find_spec("datasets") else ["data/test_hub.py"]  # the test extra installs it

SMALL = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
STUDENTS = {
    "baseline": ("deit_tiny_patch16_224", {}),
    "lift": ("deit_tiny_lift_patch16_224", {"lift_width": 96}),
    "widen": ("deit_tiny_widelast_patch16_224", {"widen_width": 96}),
    "uniform": ("deit_tiny_uniform_patch16_224", {"embed_dim": 57}),
    "pooled": ("deit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "widen_pooled": ("deit_tiny_widelast_patch16_224", {"widen_width": 96, "global_pool": "avg", "fc_norm": False}),
}


@pytest.fixture(scope="session", autouse=True)
def heard_hangup() -> Iterator[None]:
    """SIGHUP as a terminal's processes have it: under nohup it is ignored, which what the tests start would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from a process that has imported torch and timm, instead of importing both themselves.

    They do not see the environment variables that a test sets: that process has those of its own start.
    """
    from stages.core.models import students
    from stages.core.runtime import distributed
    from stages.core.train import loop

    multiprocessing.set_forkserver_preload([module.__name__ for module in (loop, students)])
    monkeypatch.setattr(distributed, "START_METHOD", "forkserver")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread of torch for each test, whatever a stage that ran in this process has set; students are registered."""
    import torch

    from stages.core.models import students  # noqa: F401

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The handlers of signals as they were, whatever a command that ran in this process has set."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def committed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as its last commit has it: results and the pages about them, whatever a run has left here.

    Where there is no git (an unpacked archive), the repository itself.
    """
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, capture_output=True)
    if archive.returncode:
        return root
    folder = tmp_path_factory.mktemp("committed")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    """Tokens with a falling spectrum, as a network's, [images, tokens, channels]: fewer tokens than channels."""
    mixing = rng.normal(size=(24, 24)) * 0.8 ** np.arange(24)
    return (rng.normal(size=(6, 9, 24)) @ mixing.T + 0.5).astype(np.float32)


@pytest.fixture
def images() -> "torch.Tensor":
    import torch

    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make_student() -> "Callable[..., nn.Module]":
    """Build a small student of a strategy; further arguments replace the small ones."""
    import timm
    import torch

    def make(strategy: str, **arguments: object) -> "nn.Module":
        architecture, own = STUDENTS[strategy]
        torch.manual_seed(0)
        config = {"input_size": (3, 8, 8), "crop_pct": 1.0}
        return timm.create_model(architecture, pretrained_cfg_overlay=config, **{**SMALL, **own, **arguments})

    return make


@pytest.fixture
def make_teacher() -> "Callable[..., nn.Module]":
    """Build a small CaiT, whose input is normalised otherwise than the students'."""
    import timm
    import torch

    def make(**arguments: object) -> "nn.Module":
        torch.manual_seed(1)
        config = {"input_size": (3, 8, 8), "mean": (0.3, 0.4, 0.5), "std": (0.2, 0.3, 0.4)}
        own = {"embed_dim": 96, "num_heads": 6, "init_values": 0.1}
        model = timm.create_model("cait_s24_224", pretrained_cfg_overlay=config, **{**SMALL, **own, **arguments})
        return model.eval()

    return make


@pytest.fixture
def teacher(make_teacher: "Callable[..., nn.Module]") -> "nn.Module":
    return make_teacher()


@pytest.fixture
def make_split(rng: np.random.Generator) -> Callable[..., Path]:
    """Fill a folder with random 8×8 PNGs: `images` in each class."""

    def make(folder: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), images: int = 4) -> Path:
        for name in classes:
            (folder / name).mkdir(parents=True)
            for index in range(images):
                pixels = rng.integers(0, 256, size=(8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
        return folder

    return make


@pytest.fixture
def tree(tmp_path: Path, make_split: Callable[..., Path]) -> Path:
    """A dataset of three classes: four training and two validation images each."""
    root = tmp_path / "data"
    make_split(root / "train")
    make_split(root / "val", images=2)
    return root
