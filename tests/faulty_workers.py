"""Entries of worker processes that fail; apart from the tests, so that the processes import little."""

from stages.core.distributed import joined
from stages.core.errors import UserError


def refuse() -> None:
    with joined() as world:
        raise UserError(f"one line of {world.size}")


def crash() -> None:
    raise RuntimeError("a bug")
