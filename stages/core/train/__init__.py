"""One training loop for teacher and students, with its batches and its checkpoints."""

__all__ = [
    "batches",
    "checkpoints",
    "compilation",
    "drop_path",
    "evaluation",
    "fingerprints",
    "finished",
    "fitting",
    "group",
    "jobs",
    "loop",
    "optimization",
    "outputs",
    "progress",
    "resident",
    "sampler",
    "state",
    "tasks",
    "teacher",
    "trainee",
]
