"""What token matrices look like: dimensions, shared directions, spectra, and what chance makes of them."""

__all__ = [
    "cka",
    "dims",
    "dynamics",
    "intervals",
    "kept_dims",
    "last_block",
    "linear_probe",
    "nulls",
    "participation",
    "pca",
    "permutation",
    "registry",
    "rotation",
    "sep",
    "spectra",
    "subspaces",
    "svd",
    "truncation",
]
