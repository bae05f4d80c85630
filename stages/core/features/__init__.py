"""Extracting features from a model once, into arrays that the analyses map into memory."""

__all__ = ["extraction", "singular_values", "store"]
