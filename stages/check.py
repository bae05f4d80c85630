"""Check params.yaml: types, names and limits, before any work."""

from pathlib import Path

from stages.core.base.errors import run
from stages.core.base.files import write_text
from stages.core.config import params
from stages.paths import PARAMS

MARKER = Path("reports/params.ok")


def main() -> None:
    """Write the marker that the first stage of the pipeline waits for; its content never changes."""
    params.load(PARAMS)
    write_text(MARKER, "params.yaml agrees with stages/core/config/params.py\n")


if __name__ == "__main__":
    run(main)
