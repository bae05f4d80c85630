"""Figures, one module per subject; every function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from stages.core.report.figures import (
    comparison,
    cost,
    dims,
    distillation,
    encoding,
    energy,
    layers,
    rotation,
    sep,
    tokens,
)

__all__ = ["comparison", "cost", "dims", "distillation", "encoding", "energy", "layers", "rotation", "sep", "tokens"]
