"""Reading and writing .npy files without pickle; a file is written completely or not at all."""

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
        return np.lib.format.open_memmap(path, mode="r")  # unlike np.load, it opens .npy files only
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, TokenError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as an array ({reason}); delete it and run `dvc repro`") from None


def release(array: np.ndarray) -> None:
    """Free the memory of a memory-mapped file's pages, which count as this process's memory.

    Written values stay in the file, and are read from there again. Other arrays are left unchanged.
    """
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
