"""From runs to differences, from differences to verdicts on published claims."""

__all__ = [
    "analysis_tables",
    "claims",
    "comparison",
    "measures",
    "register",
    "requirements",
    "results",
    "statistics",
    "studies",
    "training_logs",
    "verdicts",
]
