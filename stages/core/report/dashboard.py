"""The report's first page: what was run, what was found, and where everything lies; made from results alone."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from stages.core.base.files import read_json
from stages.core.base.names import TEACHER
from stages.core.evidence import studies
from stages.core.evidence.differences import summary_sentence
from stages.core.evidence.register import read_published
from stages.core.evidence.scales import sentence
from stages.core.evidence.statistics import NOT_SHOWN
from stages.core.report.figures import headline
from stages.core.report.markup import Link, Prose, fill, picture, table
from stages.core.report.notebooks import read_table
from stages.core.report.pages import Page, write_page
from stages.core.report.tables import audit as audit_tables
from stages.core.report.tables import distillation, encoding
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
        results, data, audit, reference, studies, figures: what it reads.
        files: further files that it leads to, with what each of them holds, in Markdown.
    """

    results: Path
    data: Path
    audit: Path
    reference: Path
    studies: Path
    figures: Path
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


HEADLINE = Card("headline", "The result", "differences.csv", "headline")
CARDS = (
    Card(f"{TEACHER}-svd_vs_pca", "One image is of low rank; are all of them together?", "energy.csv", "energy"),
    Card("floor", "What a student of a given width can reach", "floor.csv", "encoding"),
    Card(f"{TEACHER}-sep", "How a token spreads its energy, beside null models", "sep_curves.csv", "sep"),
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
    audit, data, teacher = (read_json(path) for path in (places.audit, places.data, places.results / "teacher.json"))
    runs, compared, differences = (
        read_table(places.results / f"{name}.csv") for name in ("runs", "comparison", "differences")
    )
    recorded = studies.read(places.studies)
    body = fill(
        "dashboard.html",
        heading=prose.heading,
        title=TITLE,
        paper=PAPER,
        summary=_summary(data, teacher, runs),
        tiles=_tiles(places, runs, differences),
        headline=[_card(HEADLINE, drawn, places, root, headline.source(places.results, places.data, recorded)[0])]
        if HEADLINE.figure in drawn
        else [],
        cards=[_card(card, drawn, places, root) for card in CARDS if card.figure in drawn],
        verdicts=f"{_counted(audit['counts'])}. {audit_tables.against_itself(audit)}",
        asked=table(audit_tables.asked_here(audit), cards=True),
        families=table(audit_tables.families(audit, read_published(places.reference), "audit.html"), cards=True),
        failed={
            heading: table(audit_tables.register(claims), cards=True)
            for heading, claims in audit_tables.failed(audit).items()
        },
        students=f"Mean ± standard deviation over seeds; the teacher reaches {teacher['top1']:.2f} % top-1."
        if teacher.get("top1") is not None
        else "Mean ± standard deviation over seeds.",
        comparisons=[{"name": name, "html": table(one)} for name, one in distillation.by_strategy(compared).items()],
        differences=summary_sentence(differences),
        studies=recorded and table(study_tables.provenance(recorded, f"{root}/{places.studies.as_posix()}")),
        studies_top1=recorded
        and table(
            study_tables.studies_top1(
                {"this run": compared} | {one.name: read_table(one.results / "comparison.csv") for one in recorded}
            )
        ),
        run=_run(data, teacher, runs),
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


def _summary(data: Mapping[str, Any], teacher: Mapping[str, Any], runs: pd.DataFrame) -> str:
    kinds = (("student", "strategy"), ("objective", "objective"), ("seed", "seed"))
    counts = (_number(runs[column].nunique(), noun) for noun, column in kinds)
    return f"{data['dataset']}, teacher {teacher['architecture']} ({_weights(teacher)}), {' × '.join(counts)}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _weights(teacher: Mapping[str, Any]) -> str:
    return {"fit": "fitted here", "random": "random weights"}.get(teacher["weights"], teacher["weights"])


def _counted(counts: Mapping[str, Any]) -> str:
    total = sum(sum(of.values()) if isinstance(of, Mapping) else of for of in counts.values())
    return f"{total} published claims: {sentence(counts)}"


def _tiles(places: Places, runs: pd.DataFrame, differences: pd.DataFrame) -> list[dict[str, str]]:
    """The few numbers that the page opens with, each with the section that explains it."""
    tiles = []
    backbones = read_table(places.results / "backbones.csv").set_index("backbone")
    if TEACHER in backbones.index:
        of = backbones.loc[TEACHER]
        for kind, text, section in (
            (
                "svd",
                "directions hold {} % of the energy of an image in its own basis, for 99 % of images",
                "sample-wise-svd",
            ),
            ("dataset", "in one basis that all images share", "dataset-pca-beside-it"),
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
        shown = int((differences["verdict"] != NOT_SHOWN).sum())
        tiles.append(
            {
                "value": str(shown),
                "of": f"of {len(differences)}",
                "text": "differences in top-1 between students are shown",
                "link": "distillation.html#differences",
            }
        )
    return tiles


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


def _run(data: Mapping[str, Any], teacher: Mapping[str, Any], runs: pd.DataFrame) -> list[tuple[str, Any]]:
    """What was run, as terms and texts."""
    reached = "" if teacher.get("top1") is None else f", {teacher['top1']:.2f} % top-1"
    students = [
        f"{strategy}: {of['architecture'].iloc[0]}, {_joined(of['width'])} wide, "
        f"{of['parameters'].iloc[0]:,} parameters"
        for strategy, of in runs.groupby("strategy", sort=False)
    ]
    return [
        (
            "Dataset",
            f"{data['dataset']}: {data['classes']:,} classes, {data['train']['images']:,} images to train on, "
            f"{data['val']['images']:,} to validate on",
        ),
        ("Teacher", f"{teacher['architecture']}, {_weights(teacher)}, {_joined(runs['teacher_width'])} wide{reached}"),
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
