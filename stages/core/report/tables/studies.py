"""Tables of the recorded studies: what each one was of, and what its students reached."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from stages.core.base.files import read_json
from stages.core.evidence.studies import Study
from stages.core.report.markup import Link
from stages.core.report.tables.distillation import with_std


def studies(recorded: Sequence[Study]) -> list[dict[str, Any]]:
    """Data, teacher (or backbones), hardware and date of each recorded study."""
    rows = []
    for study in recorded:
        rows.append(
            {
                "study": study.name,
                "dataset": read_json(study.data)["dataset"],
                "teacher": _teacher(study),
                "hardware": machines(study.record),
                "date": study.record["date"],
            }
        )
    return rows


def provenance(recorded: Sequence[Study], folder: str) -> list[dict[str, Any]]:
    """The rows of `studies` with commit and versions, and links to the studies' files.

    Args:
        recorded: the studies.
        folder: of all studies, from the page that shows the table.
    """
    return [
        row
        | {
            "commit": study.record["commit"][:10],
            "versions": versions(study.record),
            "files": [Link(file.rpartition("/")[2], f"{folder}/{study.name}/{file}") for file in _files(study)],
        }
        for row, study in zip(studies(recorded), recorded, strict=True)
    ]


def versions(record: Mapping[str, Any]) -> str:
    """The versions of the packages that decide most, and apart from them those that trained the students."""
    shown = ("python", "torch", "timm", "cuda")
    return "; students trained with: ".join(
        ", ".join(f"{name} {machine['versions'][name]}" for name in shown if machine["versions"].get(name))
        for machine in (record, *filter(None, [record.get("trained_on")]))
    )


def _files(study: Study) -> list[str]:
    """The files of a study that a table leads to."""
    results = "results/runs.csv" if study.has_students else "results/backbones.csv"
    return ["params.yaml", "metrics.json", results, "record.json"]


def studies_top1(comparisons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Top-1 of every study's strategies, one column per objective.

    Args:
        comparisons: comparison.csv by the study's name.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for study, table in comparisons.items():
        for row in table.itertuples():
            reached = with_std(float(row.top1_mean), float(row.top1_std), 2)  # type: ignore[arg-type]
            rows.setdefault((study, str(row.strategy)), {})[str(row.objective)] = reached
    return pd.DataFrame(
        [{"study": study, "strategy": strategy, **reached} for (study, strategy), reached in rows.items()]
    )


def _teacher(study: Study) -> str:
    """The teacher and its top-1; of a study without one the backbones that it analysed."""
    file = study.results / "teacher.json"
    if not file.is_file():
        return f"none; {', '.join(read_json(study.results / 'svd.json'))}"
    teacher = read_json(file)
    return f"{teacher['architecture']}" + ("" if teacher.get("top1") is None else f", {teacher['top1']:.2f} %")


def machines(record: Mapping[str, Any]) -> str:
    """The hardware of a study, and apart from it that which trained the students, where it was another."""
    own = _hardware(record["hardware"])
    if "trained_on" not in record:
        return own
    return f"students trained on: {_hardware(record['trained_on']['hardware'])}; all else: {own}"


def _hardware(machine: Mapping[str, Any]) -> str:
    text = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in machine["gpus"]]
    return "; ".join([text, *(f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus))])
