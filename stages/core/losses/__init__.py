"""Loss functions: soft labels, and feature losses between patch-token maps, one a file.

A file NAME.py with a function `loss` is what `feature: NAME` means in an objective's definition. It takes a student's
and a teacher's map, both [images, channels, rows, columns], and gives one number, computed in float32. In the formulas
S and T are their tokens, [images, tokens, channels]. The file may set ANY_WIDTH = True, where the loss compares maps of
any two widths, and not channel by channel; and WHOLE_BATCH = True, where it depends on all images of the global batch
together.

A file is imported when an objective names it, so that a run depends on its own loss alone.
"""

__all__ = ["by_name", "mse", "soft_labels", "spectral", "targets"]
