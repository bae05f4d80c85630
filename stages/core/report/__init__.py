"""Figures, tables and pages, made from results alone."""

__all__ = ["faces", "figures", "notebooks", "rendering", "style", "tables"]
