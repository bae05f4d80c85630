"""Figures, a module for each thing that they show; every function returns a figure and its caption.

Every number in a caption is read from the data that the figure draws.
"""

from stages.core.report.figures import comparison, dims, distillation, encoding, published, rotation, sep, tokens

__all__ = ["comparison", "dims", "distillation", "encoding", "published", "rotation", "sep", "tokens"]
