"""One published figure, or one worded claim, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What the claims are about, in the order in which the paper argues.
FAMILIES = ("low rank", "shared basis", "SEP", "naive distillation", "remedies", "cost")


@dataclass(frozen=True)
class Claim:
    """One published figure, or one worded claim.

    Attributes:
        id: entry of the register and place, like "svd/CaiT-S24/svd/95".
        family: what it is about, one of FAMILIES.
        statement: what is claimed, with its unit.
        source: where it was published.
        figure: the published value; None for a worded claim.
        measure: a key of MEASURES.
        requires: keys of REQUIREMENTS, what a run must be for its value to count at the paper's own setting; none where
            it cannot be judged there.
        elsewhere: the same for its value to count at another scale; none where it cannot be judged there.
        by_weights: the tolerance, as below, by which the authors' released weights are judged; none where they are not.
        entry: the mapping of the reference data that holds the figure (its timm name, strategy, …).
        backbone: for a figure of one backbone, its row in paper.yaml: timm name, width, input size; else empty.
        path: the figure's keys below the first key of the entry's pattern, one per part of the pattern.
        tolerance: around the figure, {"absolute": …, "relative": …}; a value within either confirms it.
        bounds: of a worded claim, {"above", "at_least", "below", "at_most": …}.
        options: further inputs of the measure (settings, backbones, another published value).
        paper: all reference data: paper.yaml, training_logs.yaml under "training_logs", and the register of questions
            under "questions".
    """

    id: str
    family: str
    statement: str
    source: str
    figure: float | None
    measure: str
    requires: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    by_weights: Mapping[str, float] = field(default_factory=dict)
    entry: Mapping[Any, Any] = field(default_factory=dict)
    backbone: Mapping[Any, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
