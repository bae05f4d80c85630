"""What the environment says of the machine is taken, or refused in one line that names the variable."""

import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.runtime import machine

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FLAGS = {
    "FRESH": (machine.fresh, False),
    "COMPILE": (lambda: machine.compiled(CPU), False),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_0_or_1(name, monkeypatch):
    read, default = FLAGS[name]
    monkeypatch.delenv(name, raising=False)
    assert read() is default
    for value, expected in {"": default, "0": False, "1": True}.items():
        monkeypatch.setenv(name, value)
        assert read() is expected


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["false", "no", "true", "yes", "2", "00", " 1", "-1"])
def test_other_flags_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}={value} is neither 0 nor 1; use one of them, or unset it$"):
        FLAGS[name][0]()


def test_cuda_devices_compile_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("COMPILE", raising=False)
    assert machine.compiled(CUDA)
    monkeypatch.setenv("COMPILE", "0")
    assert not machine.compiled(CUDA)


@pytest.mark.parametrize("name", ["PROCESSES", "WORKERS", "GPUS", "DEVICE_BATCH"])
def test_an_empty_count_is_an_unset_one(name, monkeypatch):
    read = getattr(machine, name.lower())
    monkeypatch.delenv(name, raising=False)
    default = read()
    monkeypatch.setenv(name, "")
    assert read() == default
    monkeypatch.setenv(name, "some")
    with pytest.raises(UserError, match=f"{name}=some is not a number"):
        read()


@pytest.mark.parametrize("value", ["meta", "mps", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "0", "cpu:0", "xpu"])
def test_devices_that_cannot_train_are_refused(value, monkeypatch):
    monkeypatch.setenv("DEVICE", value)
    with pytest.raises(UserError, match="is no device to compute on; use cpu, cuda, cuda:0, cuda:1, ") as caught:
        machine.device()
    assert str(caught.value).startswith("DEVICE=") and "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named_as_it_was_asked_for(monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda:999")
    with pytest.raises(UserError, match=r"^DEVICE=cuda:999 cannot be used: ") as caught:
        machine.device()
    assert "\n" not in str(caught.value)


@pytest.fixture
def visible(monkeypatch):
    """Pretend that some CUDA devices are visible; the last of them is out of order."""

    def show(count):
        def allocate(*_, device):
            if device.index is not None and device.index >= count - 1 > 0:
                raise RuntimeError("out of order")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch, "empty", allocate)

    return show


@pytest.mark.parametrize("asked", [None, "", "cuda"])
def test_ranks_take_the_devices_that_they_see(asked, visible, monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    if asked is not None:
        monkeypatch.setenv("DEVICE", asked)
    visible(5)
    assert [machine.device(rank).index for rank in range(4)] == [0, 1, 2, 3]
    visible(1)  # srun --gpus-per-task=1: each task sees its own, and counts it from 0
    assert [machine.device(rank) for rank in range(4)] == [CUDA] * 4
    assert machine.processes() == 1


def test_a_fault_of_a_device_that_nobody_named_does_not_name_the_variable(visible, monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    visible(3)
    with pytest.raises(UserError, match=r"^the device cuda:2 cannot be used: out of order$"):
        machine.device(2)
