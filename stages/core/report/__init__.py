"""Figures, tables and pages, made from results alone."""

__all__ = ["dashboard", "faces", "figures", "markup", "notebooks", "pages", "rendering", "style", "tables"]
