"""A process computes on its device alone, and float32 in full."""

import pytest
import torch

from stages.core.runtime import machine
from stages.core.runtime.distributed import joined

CUDA_1 = torch.device("cuda", 1)


def test_the_named_device_is_the_current_one_of_a_process_alone(monkeypatch):
    current = []
    monkeypatch.setattr(machine, "device", lambda _: CUDA_1)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined() as world:
        assert world.device == CUDA_1 and current == [CUDA_1]


@pytest.fixture
def tf32():
    """Switch TF32 on, and back to what it was."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield backends
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


def test_neither_products_nor_convolutions_take_tf32_for_float32(tf32, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    machine.device()
    assert [backend.allow_tf32 for backend in tf32] == [False, False]
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("value", "worthwhile", "expected"), [(None, False, False), ("1", False, True), ("0", True, False)]
)
def test_a_short_run_is_compiled_on_request_alone(value, worthwhile, expected, monkeypatch):
    monkeypatch.delenv("COMPILE", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPILE", value)
    monkeypatch.setattr(machine, "_has_compiler", lambda _: True)
    assert machine.compiled(CUDA_1, worthwhile=worthwhile) is expected
