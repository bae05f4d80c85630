"""Images: found, listed, checked, decoded, and given out in batches for evaluation."""

__all__ = [
    "batches",
    "dataset",
    "decoding",
    "digits",
    "hub",
    "image_list",
    "listing",
    "loader",
    "readers",
    "splits",
    "unreadable",
]
