"""What a stage tells its user: one line of what it makes of what, progress with an estimate, one line of what it found.

Only the last line is printed where the environment variable CI is set; bars need a terminal.
"""

import os
from collections.abc import Iterable
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


def _quiet() -> bool:
    return bool(os.environ.get("CI"))
