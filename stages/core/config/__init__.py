"""The schema of params.yaml: unknown keys, wrong types and impossible values are refused before any work."""

__all__ = ["feature_losses", "models", "params", "policies", "schema"]
