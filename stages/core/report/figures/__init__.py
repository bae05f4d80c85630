"""Figures, a module for each thing that they show; every function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from stages.core.report.figures import blocks, comparison, dims, distillation, encoding, rank, rotation, sep, tokens

__all__ = ["blocks", "comparison", "dims", "distillation", "encoding", "rank", "rotation", "sep", "tokens"]
