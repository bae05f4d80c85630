"""One training loop, with its objectives, its batches and its checkpoints."""

__all__ = [
    "balancing",
    "batches",
    "checkpoints",
    "compilation",
    "drop_path",
    "evaluation",
    "fingerprints",
    "fitting",
    "loop",
    "losses",
    "map_errors",
    "progress",
    "projectors",
    "resident",
    "sampler",
    "state",
    "task",
]
