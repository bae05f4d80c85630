"""What others report of the paper's student: data with sources, which no verdict rests on."""

from dataclasses import dataclass
from pathlib import Path

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml

FILE = "neighbours.yaml"  # of reports/reference


@dataclass(frozen=True)
class Neighbour:
    """A published result.

    Attributes:
        method: how the student was trained.
        top1: on ImageNet-1K's validation images, in percent.
        source: the public address that says so.
        teacher: None without one.
        note: what to know of it.
    """

    method: str
    top1: float
    source: str
    teacher: str | None = None
    note: str = ""


def read_neighbours(folder: Path) -> list[Neighbour]:
    """The neighbours, from the folder of the reference data.

    Raises:
        UserError: an entry lacks a key or has another one, or its source is no address.
    """
    path = folder / FILE
    try:
        found = [Neighbour(**entry) for entry in read_yaml(path)]
    except TypeError as error:
        raise UserError(f"{path}: an entry is not one: {str(error).removeprefix('Neighbour.__init__() ')}") from None
    for one in found:
        if not one.source.startswith("https://"):
            raise UserError(f"{path}: {one.method}: source must be an address that begins with https://")
    return found
