"""Tables of the report, one module per subject."""

__all__ = ["audit", "distillation", "encoding", "findings", "representation", "studies"]
