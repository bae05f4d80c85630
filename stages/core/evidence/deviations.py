"""How far the results of two runs of the same code and parameters are from each other, quantity by quantity.

Other instruction sets and numbers of threads round in another order, and training amplifies that: top-1 moves by
images, not by 1e-7. So a difference is called rounding's where it is no larger than a few times what other kernels and
threads cause on one machine, which is measured (`reports/rounding.json`), or of the size of one float32 rounding.

What one pair of runs shows of one quantity says little: the next pair may move the 80 % threshold instead of the 90 %
one. So quantities of one kind, which differ in backbone, block, level, percentile or null model, have one bound, from
all pairs that were measured. What counts things (images, dims, frequencies) may move by one though none was seen to
move. Everything else that was never seen to move is a setting, and equal.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.core.analysis import registry
from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.results import read_table

FLOAT32 = 1e-5  # relative: what is left of float32 after sums of hundreds of terms, in results of six digits
MARGIN = 3.0  # times the measured difference: a few pairs of kernels do not show the largest that there can be
# Tables made from runs.csv and encoding.csv alone, whose intervals and verdicts can come and go with one image.
DERIVED = ("comparison.csv", "differences.csv", "questions.csv")
# Where a curve that is compared itself is largest, or first reaches a level: one last digit can move that anywhere.
PLACES = re.compile(r"(runs|teacher)/top1_best_epoch|sep/.*largest_gap(_at)?|truncation/.*/bases/.*")
# One of what a kind counts, in the default: a validation image, a dimension or frequency of one image, or of the mean
# and standard deviation over the sample's 100, a bin of the folded spectrum, a permutation.
STEPS = {
    100 / 900: "curves/top1 curves/top5 runs/top1 runs/top1_best runs/top5 teacher/top1 teacher/top1_best teacher/top5 "
    "truncation/per_image truncation/shared truncation/top1",
    1.0: "backbones/shared backbones/sep backbones/per_image dims/shared dims/per_image encoding/shared "
    "encoding/shared_global encoding/per_image pca/another_sample/high pca/another_sample/low pca/dims_global "
    "pca/dims_percentile pca/token_dims/percentile sep/another_sample/high sep/another_sample/low sep/dims "
    "svd/another_sample/high svd/another_sample/low svd/blocks/dims_percentile svd/dims_percentile",
    1 / 100: "encoding/per_image_mean pca/dims_mean svd/blocks/dims_mean svd/dims_mean",
    1 / 10: "pca/dims_std svd/blocks/dims_std svd/dims_std",
    1 / 49: "encoding/bandwidth encoding/bandwidth_folded sep/bandwidth sep/gaussian_bandwidth "
    "sep/permuted_expected_bandwidth sep/permutation sep/permutation/shift sep/permutation/shift_high "
    "sep/permutation/shift_low sep/permutation/shift_percentile",
    1 / 1000: "sep/p_value",
}
STEP = {name: step for step, names in STEPS.items() for name in names.split()}
PER_BACKBONE = (*registry.NAMES, *registry.OF_MODELS)  # files whose keys are backbones
SIDES = {"observed", "gaussian", "folded", "leading", "fewest", "within", "across", "shared", "per_image"}


def kind(quantity: str) -> str:
    """What a quantity has in common with those that differ in backbone, block, level, percentile or null model."""
    file, *names = quantity.split("/")
    if file in PER_BACKBONE and len(names) > 1:  # else a table's column
        names = names[1:]
    names = [re.sub(r"_\d+$", "", name) for name in names if not name.isdigit()]
    names = [re.sub(r"(^|_)(p\d+|median)$", r"\1percentile", name) for name in names]
    return "/".join([file, *([name for name in names if name not in SIDES] or names)])


class Deviation(NamedTuple):
    """The largest difference of one quantity between two runs.

    Attributes:
        quantity: FILE/COLUMN of a table, or FILE/KEY… of a JSON file, without their suffixes.
        difference: the largest absolute difference.
        size: the largest absolute value.
    """

    quantity: str
    difference: float
    size: float

    def bound(self, measured: Mapping[str, float]) -> float:
        """The largest difference that rounding explains; `measured` holds other kernels' largest one by kind."""
        of_kind = kind(self.quantity)
        return max(FLOAT32 * self.size, MARGIN * measured.get(of_kind, 0.0), 1.01 * STEP.get(of_kind, 0.0))

    def is_rounding(self, measured: Mapping[str, float]) -> bool:
        """Whether rounding explains the difference."""
        return self.difference <= self.bound(measured)


def deviations(folder: Path, other: Path) -> list[Deviation]:
    """The largest difference of each quantity that differs at all, between two folders of results.

    `DERIVED` and `PLACES` are left out.

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
            if PLACES.fullmatch(quantity):
                continue
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
        table = read_table(path)
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
