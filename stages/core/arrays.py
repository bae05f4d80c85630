"""Reading and writing .npy files, whole or not at all, and without pickle."""

from pathlib import Path

import numpy as np

from stages.core.errors import UserError
from stages.core.files import atomic


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, without pickle."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_npy(path: Path) -> np.ndarray:
    """Map an .npy file into memory, read-only and without pickle.

    Raises:
        UserError: the file is missing, truncated, or holds Python objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an array ({error}); delete it and run `dvc repro`") from None
