"""Shared by the benchmarks: times, peak rates, and the record from which reports/performance.md is made."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from stages.core.base.files import write_json
from stages.tools.provenance import hardware, versions

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
MATRIX = {"cuda": 8192, "cpu": 1536}  # rows and columns of the product whose rate is the peak
COPIED_BYTES = {"cuda": 2**32, "cpu": 2**28}


def wait(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], Any], device: torch.device, *, rounds: int, warmup: int = 1) -> list[float]:
    """Seconds of each of `rounds` calls, the device's work included."""
    taken = []
    for number in range(warmup + rounds):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        if number >= warmup:
            taken.append(time.perf_counter() - started)
    return taken


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of ten."""
    size = MATRIX[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: left @ right, device, rounds=10, warmup=3))


def copy_peak(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes, the best of ten."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / min(seconds(lambda: target.copy_(source), device, rounds=10, warmup=3))


def spread(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """Median, minimum and maximum of repeated measurements."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "rounds": len(values),
    }


def save(out: Path | None, kind: str, measured: dict[str, Any]) -> None:
    """Print a measurement, and write it with command, date, hardware and versions where `out` is a path."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else Path(script.name)
    record = {
        "benchmark": kind,
        "command": " ".join(["python", name.as_posix(), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        **measured,
    }
    if out is not None:
        write_json(out, record)
    print({key: value for key, value in record.items() if key not in ("hardware", "versions")})
