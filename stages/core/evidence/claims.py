"""One published figure, or one worded claim, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One published figure, or one worded claim.

    Attributes:
        id: family and place, like "svd/CaiT-S24/svd/95".
        statement: what is claimed, with its unit.
        source: where it was published.
        figure: the published value; None for a worded claim.
        entry: the mapping of paper.yaml that holds it (a timm name, a strategy, …).
        backbone: for a figure of one backbone, its row in paper.yaml: timm name, width, input size; else empty.
        path: its keys from the family's root, one per * and name of the pattern.
        measure: a key of MEASURES.
        needs: keys of NEEDS, what a run must be for its value to count.
        tolerance: about the figure, {"absolute": …, "relative": …}; either is enough.
        bounds: of a worded claim, {"above", "at_least", "below", "at_most": …}.
        of: what the measure must know besides.
        paper: all of paper.yaml.
    """

    id: str
    statement: str
    source: str
    figure: float | None
    measure: str
    needs: tuple[str, ...]
    entry: Mapping[Any, Any] = field(default_factory=dict)
    backbone: Mapping[Any, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    of: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
