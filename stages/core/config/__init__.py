"""params.yaml, typed: unknown keys, wrong types and impossible values end here, before any work."""

__all__ = ["models", "params", "policies", "schema"]
