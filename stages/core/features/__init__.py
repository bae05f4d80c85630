"""Reading features off a model, once, into arrays that are mapped into memory."""

__all__ = ["extraction", "singular_values", "store"]
