"""The README.md of a recorded study, from its files: what was asked, what came out, and what it cannot say."""

from collections.abc import Sequence
from typing import Any

from stages.core.base.files import read_json, read_yaml, write_text
from stages.core.evidence import predictions, studies
from stages.core.evidence.claims import Claim
from stages.core.evidence.questions import NOT_RUN, Questions
from stages.core.evidence.studies import Study
from stages.core.report.notebooks import read_table
from stages.core.report.tables import findings, questions
from stages.core.report.tables import studies as tables


def refresh(recorded: Sequence[Study], claims: Sequence[Claim], register: Questions) -> None:
    """Write the page of every study that nobody has described."""
    for study in recorded:
        if not study.written_by_hand:
            write_text(study.folder / studies.ABOUT, page(study, claims, register))


def page(study: Study, claims: Sequence[Claim], register: Questions) -> str:
    """The page of a study, in Markdown."""
    sections = {
        "What was asked": _asked(study, register),
        "What came out": _found(study, claims, register),
        "What is here": _holds(study),
        "Run it again": _again(study),
        "Computed with": _computed(study),
        "What it cannot say": _limits(study, claims, register),
    }
    text = "\n".join(f"## {title}\n\n{content}\n" for title, content in sections.items())
    return f"{studies.GENERATED}# {study.name}\n\n{text}"


def _params(study: Study) -> Any:
    return read_yaml(study.folder / "params.yaml")


def _asked(study: Study, register: Questions) -> str:
    """Images, models and questions, from the parameters and tables."""
    data, params = read_json(study.data), _params(study)
    to_train = f", {data['train']['images']:,} to train on" if "train" in data else ""
    text = (
        f"Profile `{params['profile']}`: {data['dataset']}, {data['classes']:,} classes{to_train}, "
        f"{data['val']['images']:,} to validate on. "
    )
    if not study.has_students:
        return f"{text}Backbones without students: {', '.join(read_json(study.results / 'svd.json'))}."
    runs, asked = read_table(study.results / "runs.csv"), findings.asked(study, register)
    kinds = (("strategies", "strategy"), ("objectives", "objective"))
    named = "; ".join(f"{text}: {', '.join(f'`{name}`' for name in runs[column].unique())}" for text, column in kinds)
    seeds = sorted(runs["seed"].unique())
    return (
        f"{text}{len(runs)} students of {named}; seeds {', '.join(map(str, seeds))}. They answer "
        f"{int((asked['verdict'] != NOT_RUN).sum())} of {len(asked)} "
        "[registered questions](../../reference/README.md#questions)."
    )


def _found(study: Study, claims: Sequence[Claim], register: Questions) -> str:
    """Verdicts on the claims by this study alone, and what its questions found."""
    counted = f"Of {len(claims)} published claims, by this study alone: {findings.counted(study, claims)}."
    if not study.has_students:
        return counted
    asked, weak = findings.asked(study, register), questions.weak_teacher(findings.teacher_top1(study), register)
    listed = [
        *findings.sentences(findings.findings(study, claims), weak, questions.unsaid(asked)),
        *questions.grouped(asked, weak),
    ]
    notes = [
        questions.looks(study.name, int(asked["seeds"].max()), register),
        questions.registered(asked, study.record["date"]),
    ]
    lines = "".join(f"- {text}\n" for text in listed if text)
    return f"{findings.setting(study)}\n\n{counted}\n\n{lines}\n{' '.join(filter(None, notes))}"


def _holds(study: Study) -> str:
    """Which evidence the folder holds."""
    if not study.has_students:
        return "Tables and figures; nothing was trained. [Their columns](../../README.md#tables)."
    parts = ["Tables and figures ([their columns](../../README.md#tables))."]
    if (study.folder / predictions.FILE).is_file():
        parts.append(f"`{predictions.FILE}` has the class that each run predicts for each validation image.")
    else:
        parts.append("No predictions: an earlier version recorded it.")
    if study.models.is_dir():
        parts.append(
            f"`{studies.MODELS}` has a model of each setting, of the first seed, rounded to bfloat16: "
            f'`timm.create_model("local-dir:{study.folder.as_posix()}/{studies.MODELS}/SETTING", pretrained=True)`.'
        )
    else:
        parts.append("No models: [pull them](../../README.md#a-cache-to-pull-from), or train them again.")
    return " ".join(parts)


def _again(study: Study) -> str:
    """The commands that make it again, and the one that checks what is here."""
    images = "" if _params(study)["dataset"]["reader"] == "digits" else "DATA_ROOT=FOLDER "
    return (
        f"In a clone of its own:\n\n```\ngit checkout {study.record['commit'][:10]}\n"
        f"pip install -c constraints.txt -e .\n{images}dvc repro\n```\n\n"
        f"What is here is checked by `python -m stages.tools.record verify {study.name}`."
    )


def _computed(study: Study) -> str:
    """Date, duration, hardware and versions."""
    hours = study.record.get("hours")
    took = "how long it took was not recorded" if hours is None else f"in {hours:g} hours, as its recorder says"
    return (
        f"{study.record['date']}, {took}. Hardware: {tables.machines(study.record)}. "
        f"Versions: {tables.versions(study.record)}; all of them in `{studies.RECORD}`."
    )


def _limits(study: Study, claims: Sequence[Claim], register: Questions) -> str:
    """Claims that it cannot judge, and what weakens what it does say."""
    text = findings.limits(study, claims)
    if study.has_students and questions.weak_teacher(findings.teacher_top1(study), register):
        reached = findings.teacher_top1(study)
        text += f" Its teacher is weak: {reached:.2f} % top-1, below {register.teacher_top1:g} %."
    return f"{text} Intervals speak of other seeds on these validation images, not of other images or another pair."
