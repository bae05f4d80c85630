"""What a stage tells its user: one line of what it makes of what, progress with an estimate, one line of what it found.

Only the last line is printed where the environment variable CI is set; bars need a terminal.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def begin(stage: str, text: str) -> None:
    """Say what a stage makes of what."""
    if not _quiet():
        print(f"{stage}: {text}", flush=True)


def bar(items: Iterable[Item], stage: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar on a terminal that shows how many are done and how long the rest will take."""
    return tqdm(items, desc=stage, unit=unit, total=total, leave=False, disable=True if _quiet() else None)


def end(stage: str, found: str, place: Path) -> None:
    """Say what a stage found, and where it lies."""
    print(f"{stage}: {found} -> {place}", flush=True)


def energy_dims(percentile_dims: dict[str, float], channels: int) -> str:
    """The dims that a share of the energy needs, for the highest threshold up to 95 %.

    Args:
        percentile_dims: `dims_p99` of metrics.json: dims by threshold in percent, for 99 % of the images.
        channels: all dims that there are.
    """
    level = shown_level([int(one) for one in percentile_dims])
    dims = percentile_dims[str(level)]
    return f"for 99 % of the images {dims:.0f} of {channels} dims hold {level} % of the energy"


def shown_level(levels: Sequence[int]) -> int:
    """Of some percentages the highest one up to 95, else the lowest."""
    return max((level for level in levels if level <= 95), default=min(levels))


def _quiet() -> bool:
    return bool(os.environ.get("CI"))
