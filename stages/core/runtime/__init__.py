"""The machine and the other processes: environment variables, devices, several GPUs or nodes."""

__all__ = ["distributed", "environment", "gpus", "machine", "stopping"]
