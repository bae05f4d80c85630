"""Check params.yaml: types, names and limits, before any work."""

from pathlib import Path

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import write_text
from stages.core.config import params
from stages.paths import PARAMS

MARKER = Path("reports/params.ok")


def main() -> None:
    """Check the parameters, and write the marker that the first stages depend on; its content never changes."""
    settings = params.load(PARAMS)
    write_text(MARKER, "params.yaml is valid\n")
    runs = len(settings.grid.runs)
    messages.end("check", f"{PARAMS} is valid: profile {settings.profile}, {runs} run{'s' * (runs > 1)}", MARKER)


if __name__ == "__main__":
    run(main)
