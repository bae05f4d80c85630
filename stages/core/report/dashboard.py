"""The report's first page: what was run, what was found, and where everything lies; made from results alone."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from stages.core.base.files import read_json
from stages.core.base.names import TEACHER, plural
from stages.core.evidence import studies
from stages.core.evidence.differences import summary_sentence
from stages.core.evidence.effort import read_commands, read_rates
from stages.core.evidence.questions import questions_table, read_questions
from stages.core.evidence.register import read_published, read_register
from stages.core.evidence.results import read_table
from stages.core.evidence.scales import sentence
from stages.core.evidence.statistics import NOT_SHOWN
from stages.core.evidence.tracks import read_tracks
from stages.core.report.figures import headline
from stages.core.report.markup import Link, Prose, fill, picture, table
from stages.core.report.pages import Page, write_page
from stages.core.report.tables import audit as audit_tables
from stages.core.report.tables import distillation, encoding, findings, glance, logbook, representation
from stages.core.report.tables import questions as question_tables
from stages.core.report.tables import studies as study_tables

TITLE = "What was reproduced, and what was found"
PAPER = {
    "title": "From Low-Rank Features to Encoding Mismatch: Rethinking Feature Distillation in Vision Transformers",
    "name": "arXiv 2511.15572; ICML 2026",
    "url": "https://arxiv.org/abs/2511.15572",
}
CODE = Path("stages/core/report/figures")


@dataclass(frozen=True)
class Places:
    """Where the dashboard reads, and what it leads to: relative to the repository, where the stage runs.

    Attributes:
        results, data, audit, reference, studies, figures, performance: what it reads.
        files: further files that it leads to, with what each of them holds, in Markdown.
    """

    results: Path
    data: Path
    audit: Path
    reference: Path
    studies: Path
    figures: Path
    performance: Path
    files: Mapping[str, str]


@dataclass(frozen=True)
class Drawn:
    """A figure that a notebook has drawn: the page that shows it, and its caption."""

    page: str
    caption: str


@dataclass(frozen=True)
class Card:
    """A figure of the gallery: its name, what it shows, and where its numbers and its code are."""

    figure: str
    title: str
    table: str
    module: str


@dataclass(frozen=True)
class Students:
    """The students of a run: runs.csv, comparison.csv and differences.csv."""

    runs: pd.DataFrame
    compared: pd.DataFrame
    differences: pd.DataFrame


@dataclass(frozen=True)
class Ran:
    """What was run.

    Attributes:
        data: the manifest of the images.
        teacher: its metrics; empty without one.
        backbones: backbones.csv with the published figures beside the measured ones.
        students: None without any.
        weights: of the backbones that are timm's, where their weights are from, or why they are missing.
    """

    data: Mapping[str, Any]
    teacher: Mapping[str, Any]
    backbones: pd.DataFrame
    students: Students | None
    weights: Mapping[str, Mapping[str, str]]


HEADLINE = Card("headline", "The result", "differences.csv", "headline")
MEASURED = Card("backbones", "The paper's figures beside the measured ones", "backbones.csv", "dims")
CARDS = (  # {} is the backbone that the page shows
    Card("{}-svd_vs_pca", "One image is of low rank; are all of them together?", "energy.csv", "energy"),
    Card("floor", "What a student of a given width can reach", "floor.csv", "encoding"),
    Card("{}-sep", "How a token spreads its energy, beside null models", "sep_curves.csv", "sep"),
    Card("{}-truncation", "How many dims accuracy needs", "truncation.csv", "truncation"),
    Card("accuracy", "Top-1 by strategy and objective", "runs.csv", "distillation"),
    Card("differences", "Which differences are shown", "differences.csv", "comparison"),
    Card("cost", "What a student costs", "runs.csv", "cost"),
)


def write_dashboard(out: Path, drawn: Mapping[str, Drawn], places: Places, pages: Sequence[Page]) -> None:
    """Write the report's first page.

    Args:
        out: the page.
        drawn: the figures of the other pages, by name.
        places: what it reads and leads to.
        pages: of the report.
    """
    prose = Prose()
    root = Path(os.path.relpath(Path(), out.parent)).as_posix()
    audit, ran, recorded = read_json(places.audit), _read(places), studies.read(places.studies)
    body = fill(
        "dashboard.html",
        heading=prose.heading,
        title=TITLE,
        paper=PAPER,
        summary=_summary(ran),
        absent={name: of["missing"] for name, of in ran.weights.items() if "missing" in of},
        tiles=_tiles(ran),
        headline=_headline(drawn, places, root, recorded),
        cards=[_card(card, drawn, places, root) for card in _cards(_shown(ran.backbones)) if card.figure in drawn],
        glance=_glance(audit, places, recorded),
        verdicts=f"{_counted(audit['counts'])}. {audit_tables.against_itself(audit)}",
        asked=_asked(ran, places, recorded),
        families=table(audit_tables.families(audit, read_published(places.reference), "audit.html"), cards=True),
        failed={
            heading: table(audit_tables.register(claims, page="audit.html"), cards=True)
            for heading, claims in audit_tables.failed(audit).items()
        },
        backbones=table(representation.backbones(ran.backbones)) if ran.students is None else None,
        students=ran.students and _students(ran, ran.students),
        studies=recorded and table(study_tables.provenance(recorded, f"{root}/{places.studies.as_posix()}")),
        studies_top1=recorded
        and table(
            study_tables.studies_top1(
                ({"this run": ran.students.compared} if ran.students else {})
                | {one.name: read_table(one.results / "comparison.csv") for one in recorded if one.has_students}
            )
        ),
        run=_run(ran),
        files=[
            {"text": name, "target": f"{root}/{name}", "about": prose.inline(about)}
            for name, about in places.files.items()
        ],
        tables=[
            Link(path.name, f"{root}/{places.results.as_posix()}/{path.name}")
            for path in sorted(places.results.iterdir())
        ],
    )
    write_page(out, "Overview", body, prose.headings, pages)


def _glance(audit: Mapping[str, Any], places: Places, recorded: Sequence[studies.Study]) -> dict[str, str]:
    """What an auditor asks first, as terms and texts."""
    rates, reference = read_rates(places.performance, places.results), places.reference
    measured_by = logbook.efforts(read_register(reference), read_commands(reference), rates)
    return glance.rows(audit, measured_by, rates, read_tracks(reference), recorded)


def _read(places: Places) -> Ran:
    results = places.results
    teacher, weights = (
        read_json(file) if (file := results / f"{name}.json").is_file() else {} for name in ("teacher", "weights")
    )
    students = None
    if (results / "runs.csv").is_file():
        students = Students(*(read_table(results / f"{name}.csv") for name in ("runs", "comparison", "differences")))
    rows = representation.with_published(read_table(results / "backbones.csv"), read_published(places.reference))
    return Ran(read_json(places.data), teacher, rows, students, weights)


def _summary(ran: Ran) -> str:
    if ran.students is None:
        images = f"{ran.backbones['images'].iloc[0]:,} images"
        return f"{ran.data['dataset']}, {plural(len(ran.backbones), 'backbone')} on {images}, no students"
    kinds = (("student", "strategy"), ("objective", "objective"), ("seed", "seed"))
    counts = (plural(ran.students.runs[column].nunique(), noun) for noun, column in kinds)
    teacher = ran.teacher
    return f"{ran.data['dataset']}, teacher {teacher['architecture']} ({_weights(teacher)}), {' × '.join(counts)}"


def _weights(teacher: Mapping[str, Any]) -> str:
    said = {"fit": "fitted here", "finetune": "pretrained, fitted further here", "random": "random weights"}
    return said.get(teacher["weights"], teacher["weights"])


def _asked(ran: Ran, places: Places, recorded: Sequence[studies.Study]) -> dict[str, Any] | None:
    """The registered questions, by the study that was recorded last, or by this run where there is none."""
    register, last = read_questions(places.reference), studies.latest(recorded)
    if last is None and ran.students is None:
        return None
    if last is None:
        assert ran.students is not None
        found, top1, of = questions_table(ran.students.runs, register), ran.teacher.get("top1"), "this run"
    else:
        found, top1, of = findings.asked(last, register), findings.teacher_top1(last), f"study {last.name}"
    weak = question_tables.weak_teacher(top1, register)
    looked = question_tables.looks(last.name if last else "", int(found["seeds"].max()), register)
    rows = question_tables.rows(found, register, weak)
    return {"lead": f"Judged by {of}{weak}. {looked}", "table": table(rows, cards=True)} if rows else None


def _counted(counts: Mapping[str, Any]) -> str:
    total = sum(sum(of.values()) if isinstance(of, Mapping) else of for of in counts.values())
    return f"{total} published claims: {sentence(counts)}"


def _students(ran: Ran, students: Students) -> dict[str, Any]:
    """What the page shows of the students."""
    reached = ran.teacher.get("top1")
    return {
        "lead": "Mean ± standard deviation over seeds"
        + ("." if reached is None else f"; the teacher reaches {reached:.2f} % top-1."),
        "comparisons": [
            {"name": name, "html": table(one)} for name, one in distillation.by_strategy(students.compared).items()
        ],
        "differences": summary_sentence(students.differences),
    }


def _tiles(ran: Ran) -> list[dict[str, str]]:
    """The few numbers that the page opens with, each with the section that explains it."""
    tiles = []
    of = ran.backbones.set_index("backbone").loc[_shown(ran.backbones)]
    if ran.students or len(ran.backbones) == 1:
        for kind, text, section in (
            (
                "per_image",
                "directions hold {} % of the energy of an image in its own basis, for 99 % of images",
                "sample-wise-svd",
            ),
            ("shared", "in one basis that all images share", "dataset-pca-beside-it"),
        ):
            level = encoding.threshold(of.index, kind)
            tiles.append(
                {
                    "value": f"{of[f'{kind}_{level}']:g}",
                    "of": f"of {of['D']}",
                    "text": text.format(level),
                    "link": f"representation.html#{section}",
                }
            )
    if ran.students is None:
        return tiles
    runs, differences = ran.students.runs, ran.students.differences
    narrowest = int(runs["width"].min())
    tiles.append(
        {
            "value": str(narrowest),
            "of": f"of {int(runs['teacher_width'].max())}",
            "text": "channels in the narrowest student's last map",
            "link": "distillation.html#what-a-narrow-student-can-reach-at-best",
        }
    )
    if len(differences):
        shown_differences = int((differences["verdict"] != NOT_SHOWN).sum())
        tiles.append(
            {
                "value": str(shown_differences),
                "of": f"of {len(differences)}",
                "text": "differences in top-1 between students are shown",
                "link": "distillation.html#differences",
            }
        )
    return tiles


def _shown(backbones: pd.DataFrame) -> str:
    """The backbone that the page shows: the teacher, or else the first."""
    names = backbones["backbone"].tolist()
    return TEACHER if TEACHER in names else names[0]


def _headline(
    drawn: Mapping[str, Drawn], places: Places, root: str, recorded: Sequence[studies.Study]
) -> list[dict[str, Any]]:
    """The figure that the page opens with: without students the backbones beside the published figures."""
    if HEADLINE.figure in drawn:
        return [_card(HEADLINE, drawn, places, root, headline.source(places.results, places.data, recorded)[0])]
    return [_card(MEASURED, drawn, places, root)] if MEASURED.figure in drawn else []


def _cards(backbone: str) -> list[Card]:
    return [replace(card, figure=card.figure.format(backbone)) for card in CARDS]


def _card(
    card: Card, drawn: Mapping[str, Drawn], places: Places, root: str, results: Path | None = None
) -> dict[str, Any]:
    """What the page shows of a figure; of the headline the `results` may be those of a study."""
    of = drawn[card.figure]
    return {
        "title": card.title,
        "link": f"{of.page}#figure-{card.figure}",
        "picture": picture(card.figure, places.figures, of.caption),
        "caption": of.caption if card is HEADLINE else re.split(r"(?<=\.) (?=[A-Z])", of.caption)[0],
        "links": [
            Link("SVG", f"{root}/{places.figures.as_posix()}/{card.figure}.svg"),
            Link("data", f"{root}/{(results or places.results).as_posix()}/{card.table}"),
            Link("code", f"{root}/{CODE.as_posix()}/{card.module}.py"),
        ],
    }


def _run(ran: Ran) -> list[tuple[str, Any]]:
    """What was run, as terms and texts."""
    data, teacher = ran.data, ran.teacher
    to_train = f"{data['train']['images']:,} images to train on, " if "train" in data else ""
    rows: list[tuple[str, Any]] = [
        (
            "Dataset",
            f"{data['dataset']}: {data['classes']:,} classes, {to_train}{data['val']['images']:,} to validate on",
        ),
        ("Backbones", f"{_joined(ran.backbones['timm'])}; {_joined(ran.backbones['images'])} images"),
    ]
    found = [f"{of['source']}, SHA-256 {of['sha256']}" for of in ran.weights.values() if of.get("sha256")]
    if found:
        rows.append(("Weights", Markup("<br>").join(found)))
    if teacher:
        reached = "" if teacher.get("top1") is None else f", {teacher['top1']:.2f} % top-1"
        wide = "" if ran.students is None else f", {_joined(ran.students.runs['teacher_width'])} wide"
        rows.append(("Teacher", f"{teacher['architecture']}, {_weights(teacher)}{wide}{reached}"))
    if ran.students is None:
        return rows
    runs = ran.students.runs
    students = [
        f"{strategy}: {of['architecture'].iloc[0]}, {_joined(of['width'])} wide, "
        f"{of['parameters'].iloc[0]:,} parameters"
        for strategy, of in runs.groupby("strategy", sort=False)
    ]
    return [
        *rows,
        ("Students", Markup("<br>").join(students)),
        ("Objectives", _joined(runs["objective"])),
        ("Seeds", _joined(runs["seed"])),
        (
            "Recipe",
            f"{_joined(runs['epochs'])} epochs, batches of {_joined(runs['global_batch'])}, learning rate "
            f"{_joined(runs['lr'])}, weight decay {_joined(runs['weight_decay'])}, {_joined(runs['precision'])}",
        ),
    ]


def _joined(values: pd.Series) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(values))
