"""The machine and the other processes: devices, environment variables, several GPUs or nodes."""

__all__ = ["distributed", "machine"]
