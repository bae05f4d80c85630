"""Files, arrays, errors and names: what every other wing stands on."""

__all__ = ["arrays", "errors", "files", "names"]
