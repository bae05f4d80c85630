"""What a result was computed with: versions of packages and the hardware, but no name or path of the machine.

`python -m stages.tools.provenance` prints it for this machine as JSON, which `stages.tools.record --trained-on` takes.
"""

import argparse
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.core.base.errors import run
from stages.core.runtime.machine import cores

GIB = 2**30
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow", "safetensors", "dvc")


class Part(BaseModel):
    """A part of a machine's description; it has no other keys."""

    model_config = ConfigDict(extra="forbid")


class Gpu(Part):
    """A GPU."""

    name: str
    memory_gib: float


class Hardware(Part):
    """As `hardware` describes it."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: list[Gpu]


class Machine(Part):
    """What a result was computed with."""

    versions: dict[str, str]
    hardware: Hardware


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of those packages that are installed, and of the CUDA toolkit that torch is built with."""
    import torch

    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found if torch.version.cuda is None else {**found, "cuda": torch.version.cuda}


def hardware() -> dict[str, Any]:
    """Operating system, CPU model, cores that this process may use, memory in GiB, and GPUs of this machine."""
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "gpus": [{"name": device.name, "memory_gib": round(device.total_memory / GIB, 1)} for device in devices],
    }


def _cpu_model() -> str:
    known = Path("/proc/cpuinfo")
    if known.is_file():
        for line in known.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or platform.machine()
    return platform.machine()


def main() -> None:
    """Print what this machine computes with."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(Machine.model_validate({"versions": versions(PACKAGES), "hardware": hardware()}).model_dump_json(indent=2))


if __name__ == "__main__":
    run(main)
