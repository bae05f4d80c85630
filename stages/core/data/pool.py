"""Work on many folders or archives by several processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from stages.core.base.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], count: int, *, chunk: int = 1
) -> Iterator[Result]:
    """The results of a function of a module, in the order of the items, by `count` processes.

    By this process alone where `count` is 1, or the machine has no room for more (a container's small /dev/shm).

    Raises:
        UserError: a process was killed.
    """
    pool = results = None
    if count > 1:
        try:
            pool = ProcessPoolExecutor(count)
            results = pool.map(function, items, chunksize=chunk)
        except OSError:
            pool = None
    if pool is None or results is None:
        yield from map(function, items)
        return
    with pool:
        try:
            yield from results
        except BrokenProcessPool:
            raise UserError(
                "a process that lists images was killed, by the system if memory ran out; give the command again, on "
                "fewer cores if it happens again: taskset -c 0"
            ) from None
