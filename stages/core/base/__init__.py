"""Files, arrays, errors and shared names: what every other wing is built on."""

__all__ = ["arrays", "errors", "files", "names", "ownership"]
