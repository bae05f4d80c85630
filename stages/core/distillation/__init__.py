"""How a student learns from a teacher: objectives as timm tasks, and how near it comes to the teacher's features."""

__all__ = [
    "against_teacher",
    "balanced_targets",
    "lessons",
    "loss_comparison",
    "matching",
    "principal_targets",
    "projectors",
    "task",
]
