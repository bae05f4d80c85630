"""How far the results of two runs of the same code and parameters are from each other, quantity by quantity.

Other instruction sets round in another order, and training amplifies that: top-1 moves by images, not by 1e-7. So a
difference is called rounding's where it is no larger than what other kernels cause on one machine, which is measured
(`reports/rounding.json`), or where it is of the size of one float32 rounding.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stages.core.base.errors import UserError
from stages.core.base.files import read_json

FLOAT32 = 1e-5  # relative: what is left of float32 after sums of hundreds of terms, in results of six digits
# Tables made from runs.csv and encoding.csv alone, whose intervals and verdicts can come and go with one image.
DERIVED = ("comparison.csv", "differences.csv", "controls.csv")
MARGIN = 3.0  # times the measured difference: one pair of kernels does not show the largest that there can be


class Deviation(NamedTuple):
    """The largest difference of one quantity between two runs.

    Attributes:
        quantity: FILE/COLUMN of a table, or FILE/KEY… of a JSON file.
        difference: the largest absolute difference.
        size: the largest absolute value.
    """

    quantity: str
    difference: float
    size: float

    def is_rounding(self, measured: Mapping[str, float]) -> bool:
        """Whether other kernels explain it; `measured` holds their largest difference by quantity."""
        return self.difference <= max(FLOAT32 * self.size, MARGIN * measured.get(self.quantity, 0.0))


def deviations(folder: Path, other: Path) -> list[Deviation]:
    """The largest difference of each quantity that differs at all, between two folders of results but for `DERIVED`.

    Raises:
        UserError: the folders do not hold the same tables, rows, columns or settings: then the runs are not of the same
            code and parameters.
    """
    names = [sorted(path.name for path in one.iterdir() if path.name not in DERIVED) for one in (folder, other)]
    if names[0] != names[1]:
        only = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(f"{', '.join(only)}: only one of {folder} and {other} has it; compare runs of one commit")
    found = []
    for name in names[0]:
        quantities = [_quantities(one / name) for one in (folder, other)]
        if quantities[0].keys() != quantities[1].keys():
            raise UserError(f"{name} has other columns or keys in {other}; compare runs of one commit")
        for quantity, values in quantities[0].items():
            compared = _compared(quantity, values, quantities[1][quantity], other)
            if compared is not None and compared.difference > 0:
                found.append(compared)
    return found


def _compared(quantity: str, values: np.ndarray, others: np.ndarray, other: Path) -> Deviation | None:
    """The deviation of two arrays of one quantity; None if it is text, and equal."""
    numbers = values.dtype.kind in "fiub" and others.dtype.kind in "fiub"
    same = values.shape == others.shape
    if not same or (not numbers and not np.array_equal(values, others)):
        raise UserError(f"{quantity} has other rows or settings in {other}; compare runs of one commit and params")
    if not numbers:
        return None
    pair = np.stack([values.astype(float), others.astype(float)])
    if np.any(np.isnan(pair[0]) != np.isnan(pair[1])):
        raise UserError(f"{quantity} is missing in other rows of {other}; compare runs of one commit and params")
    return Deviation(
        quantity,
        float(np.nan_to_num(np.abs(pair[0] - pair[1])).max(initial=0.0)),
        float(np.nan_to_num(np.abs(pair)).max(initial=0.0)),
    )


def _quantities(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table, or the leaves of a JSON file, by quantity."""
    if path.suffix == ".csv":
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        texts = table.select_dtypes(exclude="number").columns  # where an empty cell must equal an empty cell
        table[texts] = table[texts].fillna("")
        return {f"{path.stem}/{name}": table[name].to_numpy() for name in table}
    return {f"{path.stem}/{key}": np.array([value]) for key, value in _leaves(read_json(path))}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value by their path; None counts as text."""
    if isinstance(value, Mapping | list):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in inner:
            yield from _leaves(one, f"{key}/{name}" if key else str(name))
    else:
        yield key, "null" if value is None else value
