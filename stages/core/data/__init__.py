"""Images: found, listed, checked, decoded, and given out in batches for evaluation."""

__all__ = [
    "batches",
    "dataset",
    "decoding",
    "digits",
    "hub",
    "image_list",
    "layout",
    "listing",
    "loader",
    "pool",
    "readers",
    "splits",
    "tars",
    "unreadable",
]
