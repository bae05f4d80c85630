"""Entries of worker processes that fail; apart from the tests, so that the processes import little."""

from stages.core.base.errors import UserError
from stages.core.runtime.distributed import joined


def refuse() -> None:
    with joined() as world:
        raise UserError(f"one line of {world.size}")


def crash() -> None:
    raise RuntimeError("a bug")
