"""From runs to differences, from differences to verdicts on published claims."""

__all__ = [
    "analysis_tables",
    "blocks",
    "claims",
    "comparison",
    "controls",
    "deviations",
    "differences",
    "measures",
    "register",
    "requirements",
    "results",
    "simultaneous",
    "statistics",
    "studies",
    "training_logs",
    "verdicts",
]
