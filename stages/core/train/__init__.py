"""One training loop, with its objectives, its batches and its checkpoints."""

__all__ = [
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
    "resident",
    "sampler",
    "state",
    "task",
]
