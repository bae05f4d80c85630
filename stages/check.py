"""Check params.yaml: types, names and limits, before any work."""

from pathlib import Path

from stages.core.base.errors import run
from stages.core.base.files import write_text
from stages.core.config import params
from stages.paths import PARAMS

MARKER = Path("reports/params.ok")


def main() -> None:
    """Check the parameters, and write the marker that the first stages depend on; its content never changes."""
    params.load(PARAMS)
    write_text(MARKER, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
