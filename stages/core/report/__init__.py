"""Figures, tables and pages, made from results alone."""

__all__ = ["dashboard", "figures", "markup", "notebooks", "pages", "rendering", "style", "tables"]
