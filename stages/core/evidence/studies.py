"""Recorded studies: finished reproductions, each copied to a folder of its own, to be read beside the current run.

A study's folder holds `record.json` and copies of `CONTENT`: the parameters, the pipeline's record and everything that
was reported; of students also their predictions, and models where they are small. The record says when, from which
commit, with which versions and hardware, and `files` has a digest of every file; `trained_on` has those of the machine
that trained the students, where it was another one.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder, read_json, sha256, write_json

RECORD = "record.json"
ABOUT = "README.md"  # what people write of a study: it may be there before the study is recorded, and stays
CONTENT = ("params.yaml", "dvc.lock", "metrics.json", "results", "figures", "audit.json", "data.json")
MODELS = "models"
CURRENT = "current"  # the name of the current run in verdicts
OF_STUDIES = ("headline*", "matching-*")  # figures that are not of the run which drew them
GENERATED = "<!-- written by `python -m stages.tools.record`; without this line it is yours and stays -->\n"


@dataclass(frozen=True)
class Study:
    """One recorded study.

    Attributes:
        name: of the study and its folder.
        folder: that holds it.
        record: the content of record.json.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def results(self) -> Path:
        """The folder of its results, as `summarize` wrote them."""
        return self.folder / "results"

    @property
    def data(self) -> Path:
        """The manifest of its images."""
        return self.folder / "data.json"

    @property
    def models(self) -> Path:
        """The folder of one model of each setting, which a large study does not have."""
        return self.folder / MODELS

    @property
    def written_by_hand(self) -> bool:
        """Whether somebody has written what the study is of."""
        about = self.folder / ABOUT
        return about.is_file() and not about.read_text(encoding="utf-8").startswith(GENERATED)

    @property
    def has_students(self) -> bool:
        """Whether students were trained; else backbones alone were analysed."""
        return (self.results / "runs.csv").is_file()


def latest(recorded: Sequence[Study]) -> Study | None:
    """Of the studies with students the one that was recorded last; None where there is none."""
    trained = (study for study in recorded if study.has_students)
    return max(trained, key=lambda study: (study.record["date"], study.name), default=None)


def place(root: Path, name: str, *, replace: bool) -> Path:
    """The folder of a study to be recorded.

    Args:
        root: the folder of all studies.
        name: of letters, digits, dots and underscores.
        replace: allow the name of a recorded study.

    Raises:
        UserError: the name is reserved, or there is a study or something else of that name.
    """
    if name in (CURRENT, "verify") or name.startswith("."):
        raise UserError(f"a study cannot be called {name}; choose another name")
    folder = root / name
    if folder.exists() and not (folder / RECORD).is_file() and not _described(folder):
        raise UserError(f"{folder} is not a study; choose another name")
    if (folder / RECORD).is_file() and not replace:
        raise UserError(f"{folder} is recorded already; choose another name, or replace it with --replace")
    return folder


def freeze(
    sources: Mapping[str, Path], record: Mapping[str, Any], folder: Path, add: Callable[[Path], None] = lambda _: None
) -> None:
    """Copy a finished reproduction into a study's folder, completely or not at all; an earlier one is replaced.

    The figures that the report draws from the study recorded last are left out: they show another run.

    Args:
        sources: the path of each entry of `CONTENT`.
        record: goes to record.json, with the digest of every file.
        folder: see `place`.
        add: writes what else the study holds into the folder that it is given, after all else is there.

    Raises:
        UserError: a source is missing.
    """
    missing = [path.as_posix() for path in sources.values() if not path.exists()]
    if missing:
        raise UserError(f"{', '.join(missing)} is missing; run `dvc repro` to make it")
    with atomic_folder(folder) as temporary:
        for name in CONTENT:
            if sources[name].is_dir():
                shutil.copytree(sources[name], temporary / name, ignore=shutil.ignore_patterns(*OF_STUDIES))
            else:
                shutil.copyfile(sources[name], temporary / name)
        if (folder / ABOUT).is_file():
            shutil.copyfile(folder / ABOUT, temporary / ABOUT)
        add(temporary)
        write_json(temporary / RECORD, {**record, "files": digests(temporary)})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a study by its path within, but of the record itself and of what people may write."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in named.items() if name not in (RECORD, ABOUT)}


def read(root: Path) -> list[Study]:
    """Every study in a folder, by name; none if the folder does not exist.

    Raises:
        UserError: a study's folder is incomplete.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = []
    for folder in folders:
        if folder.name.startswith(".") or _described(folder):  # a recording that was interrupted, or is to come
            continue
        missing = [name for name in (RECORD, *CONTENT) if not (folder / name).exists()]
        if missing:
            raise UserError(
                f"{folder} is an incomplete study: {', '.join(missing)} is missing; "
                f"restore it with `git restore {folder}`, or delete it"
            )
        found.append(Study(folder.name, folder, read_json(folder / RECORD)))
    return found


def _described(folder: Path) -> bool:
    """Whether a folder holds only what people say of a study that is to be recorded."""
    return folder.is_dir() and [path.name for path in folder.iterdir()] == [ABOUT]
