"""Freeze a finished reproduction in reports/studies/NAME: python -m stages.tools.record NAME; check one: verify NAME.

Refuses to record with uncommitted changes of what can change a result, or while `dvc status` reports changes in the
pipeline. Pages, tests, notes, images and weights beside them do not count. Run it on the machine that computed the
results: its hardware and the packages' versions go into record.json. If another machine trained the students, one
without DVC perhaps, add --trained-on FILE with what `python -m stages.tools.provenance` printed there.

`verify` recomputes every top-1, difference and interval of recorded studies from their predictions, compares digests,
and evaluates their models again where it reaches the images (DATA_ROOT). It ends with exit status 1, and one line, at
what differs from the record.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, read_yaml
from stages.core.base.names import Run
from stages.core.config import params
from stages.core.data.splits import index_file, labels, read_index
from stages.core.evidence import predictions, studies, verification
from stages.core.evidence.questions import read_questions
from stages.core.evidence.register import read_register
from stages.core.evidence.results import read_runs
from stages.core.evidence.studies import Study
from stages.paths import (
    AUDIT,
    FIGURES,
    MANIFEST,
    PARAMS,
    PREPARE,
    REFERENCE,
    REPORTS,
    RESULTS,
    STUDIES,
    run_folder,
)
from stages.tools import study_page
from stages.tools.provenance import PACKAGES, Machine, hardware, versions

LOCK = Path("dvc.lock")
VERIFY = "verify"  # in the place of a name
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


def evidence(folder: Path) -> None:
    """Add to a study's folder what its students answered, and a model of each setting unless that is too large."""
    from stages.tools import study_models  # here: nothing else that records or verifies needs timm

    table = RESULTS / "runs.csv"
    if not table.is_file():
        return
    runs = {row["run"]: run_folder(Run.named(row["run"])) for row in read_runs(table)}
    truth = np.array(labels(read_index(index_file(PREPARE, "val")), read_json(MANIFEST)["class_names"]))
    answers = predictions.Predictions(
        truth, {name: np.asarray(read_npy(path / "predictions.npy")) for name, path in runs.items()}
    )
    predictions.write(folder / predictions.FILE, answers, folder / "data.json")
    if study_models.too_large(runs, folder):
        print(f"its models would make it larger than {study_models.LIMIT_BYTES / 2**20:g} MiB: they stay in the cache")
    else:
        study_models.write(runs, folder / studies.MODELS)


def record() -> None:
    """Record the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="letters, digits, dots and underscores; or verify")
    parser.add_argument("--replace", action="store_true", help="replace the study that has this name")
    parser.add_argument("--trained-on", type=Path, metavar="FILE", help="of the machine that trained the students")
    parser.add_argument("--hours", type=float, metavar="HOURS", help="how long the whole took, for the study's page")
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
    said = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": head,
        "versions": versions(PACKAGES),
        "hardware": hardware(),
        **trained_on,
        **({} if arguments.hours is None else {"hours": arguments.hours}),
    }
    studies.freeze(SOURCES, said, folder, evidence)
    study = next(one for one in studies.read(STUDIES) if one.name == name)
    study_page.refresh([study], read_register(REFERENCE), read_questions(REFERENCE))
    print(f"{folder} is recorded; `dvc repro` brings audit and report up to date with it, then commit both")


def verify(words: list[str]) -> None:
    """Verify the studies that the command line names.

    Raises:
        UserError: there is no such study, or something differs from what was recorded.
    """
    parser = argparse.ArgumentParser(f"{Path(sys.argv[0]).name} {VERIFY}", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of recorded studies")
    parser.add_argument("--all", action="store_true", help="every recorded study")
    arguments = parser.parse_args(words)
    recorded = {study.name: study for study in studies.read(STUDIES)}
    names = list(recorded) if arguments.all else arguments.names
    unknown = [name for name in names if name not in recorded]
    if unknown or not names:
        what = f"{unknown[0]} is no recorded study" if unknown else "name a study, or give --all"
        raise UserError(f"{what}; there {'is' if len(recorded) == 1 else 'are'} {', '.join(recorded) or 'none'}")
    for name in names:
        found = verification.verify(recorded[name], read_questions(REFERENCE))
        print(f"{name}: as recorded: {', '.join(found.equal)}")
        for lacking in [*found.lacking, *models(recorded[name])]:
            print(f"  not recomputed: {lacking}")


def models(study: Study) -> list[str]:
    """Evaluate a study's models, print what was found of each, and return why they were not evaluated, if so."""
    if not study.has_students or not study.models.is_dir():
        return ["models (it has none)"] if study.has_students else []
    from stages.tools import study_models  # as above

    reason = study_models.out_of_reach(study, PREPARE)
    if reason is not None:
        return [f"models ({reason})"]
    answers = predictions.read(study.folder / predictions.FILE, study.data)
    for line in study_models.evaluate(study, answers, PREPARE):
        print(f"  {line}")
    return []


def main() -> None:
    """Record a study, or verify recorded ones."""
    if sys.argv[1:2] == [VERIFY]:
        verify(sys.argv[2:])
    else:
        record()


if __name__ == "__main__":
    run(main)
