"""What decides a run's result: its identity, the code of the project that is loaded, and the libraries."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.core.base.files import sha256

PACKAGE = Path(__file__).resolve().parents[2]  # compared by file, because a stage's own module is called __main__
LIBRARIES = ("torch", "torchvision", "timm")


def loaded_files() -> list[Path]:
    """The project's source files that this process has loaded, sorted."""
    # Only these are resolved: to resolve the files of all 2,700 loaded modules takes half a second.
    prefixes = tuple(f"{folder}{os.sep}" for folder in {PACKAGE, Path(__file__).absolute().parents[2]})
    names = {str(getattr(module, "__file__", None)) for module in [*sys.modules.values()]}
    files = {Path(name).resolve() for name in names if name.startswith(prefixes)}
    return sorted(file for file in files if file.is_relative_to(PACKAGE))


def code_and_libraries() -> dict[str, dict[str, str]]:
    """SHA-256 of each of the project's loaded files, and the versions of the libraries that decide a result."""
    return {
        "code": {file.relative_to(PACKAGE).as_posix(): sha256(file) for file in loaded_files()},
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a run's result: its identity, the project's loaded code, the libraries.

    Args:
        identity: resolved parameters and digests of inputs; must be JSON.
    """
    return digest([identity, *code_and_libraries().values()])


def digest(content: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The dotted keys of two nested mappings under which they differ."""
    found: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += [f"{key}.{name}" for name in differing(mine, theirs)]
        elif mine != theirs or (key in one) != (key in other):
            found.append(key)
    return found
