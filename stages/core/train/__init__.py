"""One training loop for teacher and students, with its batches and its checkpoints."""

__all__ = [
    "batches",
    "checkpoints",
    "compilation",
    "device_augmentation",
    "drop_path",
    "evaluation",
    "fingerprints",
    "finished",
    "fitting",
    "jobs",
    "loop",
    "optimization",
    "outputs",
    "progress",
    "sampler",
    "side_by_side",
    "state",
    "tasks",
    "teacher",
    "training",
]
