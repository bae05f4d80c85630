"""Freeze a finished reproduction in reports/studies/NAME: python -m stages.tools.record NAME.

Refuses to record with uncommitted changes of what can change a result, or while `dvc status` reports changes in the
pipeline. Pages, tests, notes, images and weights beside them do not count. Run it on the machine that computed the
results: its hardware and the packages' versions go into record.json. If another machine trained the students, one
without DVC perhaps, add --trained-on FILE with what `python -m stages.tools.provenance` printed there.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_yaml
from stages.core.config import params
from stages.core.evidence import studies
from stages.paths import AUDIT, FIGURES, MANIFEST, PARAMS, REPORTS, RESULTS, STUDIES
from stages.tools.provenance import PACKAGES, Machine, hardware, versions

LOCK = Path("dvc.lock")
SOURCES = {
    "params.yaml": PARAMS,
    "dvc.lock": LOCK,
    "metrics.json": REPORTS / "metrics.json",
    "results": RESULTS,
    "figures": FIGURES,
    "audit.json": AUDIT,
    "data.json": MANIFEST,
}


def output_of(*command: str) -> str:
    """Run a command and return its standard output.

    Raises:
        UserError: the command is not installed, or fails.
    """
    shown = " ".join(command[:3] if command[0] == "git" else command[-3:])
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"`{shown}` cannot be run; install {command[0]}") from None
    if result.returncode:
        raise UserError(f"`{shown}` fails: {' '.join(result.stderr.split())}")
    return result.stdout


def commit() -> str:
    """The commit that is checked out.

    Raises:
        UserError: there are uncommitted changes of what can change a result.
    """
    stages = read_yaml(LOCK)["stages"].values() if LOCK.is_file() else []
    files = {one["path"] for stage in stages for kind in ("deps", "outs") for one in stage.get(kind, [])}
    # `python -m` imports modules that lie here in the place of installed ones.
    files |= {"dvc.yaml", *map(str, (LOCK, PARAMS, REPORTS, *Path().glob("*.py"), *Path().glob("*/__init__.py")))}
    changed = output_of("git", "status", "--porcelain", "--untracked-files=all", "--", *sorted(files)).splitlines()
    if changed := [line for line in changed if not line.endswith(".md")]:
        shown = ", ".join(line[3:] for line in changed[:5]) + (", …" if len(changed) > 5 else "")
        raise UserError(f"there are uncommitted changes ({shown}); commit them first")
    return output_of("git", "rev-parse", "HEAD").strip()


def check_finished() -> None:
    """Refuse a pipeline that is not up to date; stages that are `always_changed` count as up to date.

    Raises:
        UserError: a stage's dependencies, parameters, outputs or command have changed.
    """
    status = json.loads(output_of(sys.executable, "-m", "dvc", "status", "--json"))
    stale = [stage for stage, changes in status.items() if changes != ["always changed"]]
    if stale:
        shown = ", ".join(stale[:5]) + (", …" if len(stale) > 5 else "")
        raise UserError(f"the pipeline is not up to date ({shown}); run `dvc repro` and commit what it changes")


def machine(file: Path) -> dict[str, Any]:
    """What another machine computed with, as `stages.tools.provenance` printed it there.

    Raises:
        UserError: the file is missing, or is something else.
    """
    try:
        return Machine.model_validate_json(file.read_bytes()).model_dump()
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not describe a machine"
        raise UserError(
            f"--trained-on {file}: {reason}; give what `python -m stages.tools.provenance` prints on that machine"
        ) from None


def main() -> None:
    """Record the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="letters, digits, dots and underscores")
    parser.add_argument("--replace", action="store_true", help="replace the study that has this name")
    parser.add_argument("--trained-on", type=Path, metavar="FILE", help="of the machine that trained the students")
    arguments = parser.parse_args()
    try:
        name = TypeAdapter(params.Name).validate_python(arguments.name)
    except ValidationError:
        raise UserError(
            f"{arguments.name!r} cannot be a study's name; use letters, digits, dots and underscores"
        ) from None
    folder = studies.place(STUDIES, name, replace=arguments.replace)
    trained_on = {} if arguments.trained_on is None else {"trained_on": machine(arguments.trained_on)}
    head = commit()
    check_finished()
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": head,
        "versions": versions(PACKAGES),
        "hardware": hardware(),
        **trained_on,
    }
    studies.freeze(SOURCES, record, folder)
    print(f"{folder} is recorded; `dvc repro` brings audit and report up to date with it, then commit both")


if __name__ == "__main__":
    run(main)
