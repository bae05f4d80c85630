"""From runs to differences, from differences to verdicts on published claims."""

__all__ = [
    "analysis_measures",
    "analysis_tables",
    "blocks",
    "claims",
    "comparison",
    "controls",
    "deviations",
    "differences",
    "measured",
    "measures",
    "register",
    "requirements",
    "results",
    "scales",
    "simultaneous",
    "statistics",
    "studies",
    "training_logs",
    "training_measures",
    "verdicts",
]
