"""What token matrices look like: dimensions, shared directions, spectra, and what chance makes of them."""

__all__ = [
    "cka",
    "dynamics",
    "encoding",
    "energy",
    "intervals",
    "last_block",
    "nulls",
    "participation",
    "pca",
    "permutation",
    "sep",
    "similarity",
    "subspaces",
    "svd",
    "truncation",
]
