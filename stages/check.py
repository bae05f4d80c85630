"""Check params.yaml: types, names and limits, and that timm has the backbones, before any work."""

from pathlib import Path

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import prune, write_text
from stages.core.base.names import TEACHER
from stages.core.config import params
from stages.paths import PARAMS, TRAIN

MARKER = Path("reports/params.ok")


def main() -> None:
    """Check the parameters, and write the marker that the first stages depend on; its content never changes."""
    settings = params.load(PARAMS)
    others = [name for name in settings.analysis.backbones if name != TEACHER]
    if others:
        from stages.core.models import backbones  # here, because timm takes most of the time of this stage

        for name in others:
            backbones.check_name(name)
    prune(TRAIN, list(settings.grid.runs))  # seeds that params no longer name
    write_text(MARKER, "params.yaml is valid\n")
    runs = messages.counted(len(settings.grid.listed()), "run")
    messages.end("check", f"{PARAMS} is valid: profile {settings.profile}, {runs}", MARKER)


if __name__ == "__main__":
    run(main)
