"""Check params.yaml: types, names and limits, before any work."""

from pathlib import Path

from stages.core import params
from stages.core.errors import run
from stages.core.files import write_text

MARKER = Path("reports/params.ok")


def main() -> None:
    """Write the marker that the first stage of the pipeline waits for; its content never changes."""
    params.load()
    write_text(MARKER, "params.yaml agrees with stages/core/params.py\n")


if __name__ == "__main__":
    run(main)
