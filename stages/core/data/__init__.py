"""Images: found, listed, checked, decoded, and given out in batches for evaluation."""

__all__ = [
    "batches",
    "dataset",
    "decoding",
    "digits",
    "folders",
    "hub",
    "image_list",
    "layout",
    "loader",
    "pool",
    "splits",
    "tars",
    "unreadable",
]
