"""Figures, tables and pages, made from results alone."""

__all__ = ["figures", "notebooks", "rendering", "style", "tables"]
