"""Figures, one module per subject; every function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from stages.core.report.figures import (
    blocks,
    comparison,
    cost,
    dims,
    distillation,
    encoding,
    energy,
    headline,
    layers,
    matching,
    published,
    rotation,
    sep,
    tokens,
    truncation,
    width_floor,
)

__all__ = [
    "blocks",
    "comparison",
    "cost",
    "dims",
    "distillation",
    "encoding",
    "energy",
    "headline",
    "layers",
    "matching",
    "published",
    "rotation",
    "sep",
    "tokens",
    "truncation",
    "width_floor",
]
