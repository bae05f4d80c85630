"""Reading and writing .npy files, whole or not at all, and without pickle."""

import mmap
from pathlib import Path
from tokenize import TokenError

import numpy as np

from stages.core.base.errors import UserError
from stages.core.base.files import atomic


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
        return np.lib.format.open_memmap(path, mode="r")  # which, other than np.load, takes nothing but .npy
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, TokenError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as an array ({reason}); delete it and run `dvc repro`") from None


def release(array: np.ndarray) -> None:
    """Give the pages of a whole mapped file back to the system, which would count them as this process's memory.

    What was written stays in the file; what is read again comes from there. Other arrays are left as they are.
    """
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
