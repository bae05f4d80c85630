"""Tables of the report, a module for each of its notebooks."""

__all__ = ["audit", "distillation", "representation"]
