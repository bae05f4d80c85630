"""What the environment says of the machine is taken, or refused in one line that names the variable."""

import pytest
import torch

from stages.core.base.errors import UserError
from stages.core.runtime import machine

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in ("DEVICE", "COMPILE", "WORKERS", "PROCESSES", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("device", "variable", "compiler"), [(CPU, "CXX", "g++"), (CUDA, "CC", "gcc")])
def test_models_are_compiled_where_there_is_a_compiler(device, variable, compiler, monkeypatch, capsys):
    programs = {compiler, "my-compiler"}
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: name if name in programs else None)
    assert machine.compiled(device) is (device is CUDA)
    for value, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("COMPILE", value)
        assert machine.compiled(device) is expected
    monkeypatch.setenv("COMPILE", "1")
    programs.remove(compiler)
    with pytest.raises(
        UserError, match=rf"^COMPILE=1 needs a C.* compiler \(.*{variable} names\); install one"
    ) as caught:
        machine.compiled(device)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(variable, "my-compiler")
    assert machine.compiled(device)
    monkeypatch.delenv(variable)
    monkeypatch.delenv("COMPILE")
    capsys.readouterr()
    assert not machine.compiled(device)  # nobody asked for it
    assert ("warning: models are not compiled" in capsys.readouterr().err) is (device is CUDA)


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
    if asked is not None:
        monkeypatch.setenv("DEVICE", asked)
    visible(5)
    assert [machine.device(rank).index for rank in range(4)] == [0, 1, 2, 3]
    visible(1)  # srun --gpus-per-task=1: each task sees its own, and counts it from 0
    assert [machine.device(rank) for rank in range(4)] == [CUDA] * 4
    assert machine.processes() == 1


def test_a_fault_of_a_device_that_nobody_named_does_not_name_the_variable(visible, monkeypatch):
    visible(3)
    with pytest.raises(UserError, match=r"^the device cuda:2 cannot be used: out of order$"):
        machine.device(2)


def test_loading_leaves_the_main_process_a_core_and_torch_half_of_them(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, loading, computing in [(1, 1, 1), (2, 1, 1), (4, 3, 2), (16, 15, 8), (48, 32, 24), (128, 32, 96)]:
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        machine.share_cores(CPU)
        assert (machine.workers(), threads.pop()) == (loading, computing)
        machine.share_cores(CPU, loading=0)
        assert threads.pop() == cores
    monkeypatch.setenv("WORKERS", "0")
    machine.share_cores(CPU)
    machine.share_cores(CUDA)
    assert threads == [128]
