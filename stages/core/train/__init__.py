"""One training loop, with its objectives, its batches and its checkpoints."""

__all__ = [
    "batches",
    "checkpoints",
    "evaluation",
    "fingerprints",
    "fitting",
    "loop",
    "losses",
    "map_errors",
    "progress",
    "resident",
    "sampler",
    "task",
]
