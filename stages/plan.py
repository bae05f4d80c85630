"""Which stages a run has, and what they read where that depends on the run: `plan` in params.yaml, for dvc.yaml.

A stage that has nothing to do is not there: it has one item for each entry of its list or mapping. What another one
would read of it is then the marker of stage `check`, which is always there and never changes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from stages.core.base.names import STUDENTS, TEACHER
from stages.paths import CHECKED, DYNAMICS, ENCODE, TEACH, TRAIN, TRUNCATION, WEIGHTS


def planned(
    backbones: Sequence[str], layerwise: Collection[str], classifiers: Collection[str], runs: Collection[str]
) -> dict[str, Any]:
    """The plan of a run.

    Args:
        backbones: analysis.backbones.
        layerwise, classifiers: analysis.layerwise and analysis.classifiers; they may name models that this run does not
            have.
        runs: the names of grid.runs.

    Returns:
        By stage: the items of `teach`, `weights` and `encode`; for each item of `extract` (and of the analyses that
        follow it), `truncation` and `dynamics` two files that change if and only if the model does; which blocks
        `extract` looks at, so that another list for one backbone leaves the others alone; what `summarize` reads.
    """
    files = {name: _files(WEIGHTS / f"{name}.json") for name in backbones if name != TEACHER}
    timm = ["timm"] if files else []
    teacher = [TEACHER] if TEACHER in backbones or runs else []
    files |= {name: _files(TEACH / "model.safetensors", TEACH / "config.json") for name in teacher}
    measured = {name: files[name] for name in dict.fromkeys([*teacher, *backbones]) if name in classifiers}
    students = {TEACHER: files[TEACHER], STUDENTS: _files(TRAIN)} if runs else {}
    read = {
        "teach": (teacher, TEACH / "metrics.json"),
        "weights": (timm, WEIGHTS),
        "truncation": (measured, TRUNCATION),
        "dynamics": (measured or students, DYNAMICS),
        "train": (students, TRAIN),
        "encode": (students, ENCODE),
    }
    return {
        "teach": teacher,
        "weights": timm,
        "extract": {name: {**files[name], "blocks": "all" if name in layerwise else "last"} for name in backbones},
        "truncation": measured,
        "dynamics": measured | students,
        "encode": [STUDENTS] if runs else [],
        "summarize": {name: (place if there else CHECKED).as_posix() for name, (there, place) in read.items()},
    }


def _files(weights: Path, config: Path | None = None) -> dict[str, str]:
    return {"weights": weights.as_posix(), "config": (config or weights).as_posix()}
