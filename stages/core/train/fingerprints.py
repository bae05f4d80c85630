"""What decides a run's result: its identity, the code of the project that trains it, and the libraries."""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.core.base.files import sha256

PACKAGE = Path(__file__).resolve().parents[2]  # `stages`
LIBRARIES = ("torch", "torchvision", "timm")
TRAINS = ("stages.core.train.fitting", "stages.core.models.folders")  # every model: how it is made, and trained
NOT_TRAINING = (  # an edit changes no weight; `students` imports every strategy, and a run names its own
    "stages.core.models.students",
    *(f"stages.core.config.{name}" for name in ("models", "params", "schema")),  # the values are in a run's identity
    *("stages.core.models.cards", "stages.core.models.cost", "stages.core.train.outputs", "stages.core.train.progress"),
)


def code_of(modules: Iterable[str], *, without: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of the source of modules of the project and of all that these import, by path within the package.

    The imports are read from the source, so that it does not matter what else the process has loaded. Packages' own
    files hold no code.

    Args:
        modules: dotted names; those of other packages are passed over.
        without: modules that are left out where others import them, with what only they import.
    """
    waiting = {file for name in modules if (file := _file(name))}
    left_out = {file for name in without if (file := _file(name))} - waiting
    files: set[Path] = set()
    while waiting:
        files.add(file := waiting.pop())
        waiting |= _imported(file) - files - left_out
    return {file.relative_to(PACKAGE).as_posix(): sha256(file) for file in sorted(files)}


@cache
def _imported(file: Path) -> frozenset[Path]:
    """The project's modules that a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(path for name in names if (path := _file(name)))


def _file(module: str) -> Path | None:
    """The source of a module of the project; None for a package, a name within a module, or another project's."""
    package, *parts = module.split(".")
    file = PACKAGE.joinpath(*parts).with_suffix(".py")
    return file if package == PACKAGE.name and parts and file.is_file() else None


def libraries() -> dict[str, str]:
    """The versions of the libraries that decide a result."""
    return {name: version(name) for name in LIBRARIES}


def digest(content: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The dotted keys of two nested mappings under which they differ."""
    keys: list[str] = []
    for key in sorted(first.keys() | second.keys()):
        left, right = first.get(key), second.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            keys += [f"{key}.{name}" for name in differing(left, right)]
        elif left != right or (key in first) != (key in second):
            keys.append(key)
    return keys
