"""Render the notebooks: executed copies and figures for git, pages to read in a browser."""

from dataclasses import dataclass
from pathlib import Path

from stages.core.base.errors import run
from stages.core.report.rendering import Page, index, render, title
from stages.paths import AUDIT, FIGURES, HTML, MANIFEST, REFERENCE, REPORTS, RESULTS, STUDIES

TEMPLATES = Path("notebooks")
NOTEBOOKS = REPORTS / "notebooks"


@dataclass(frozen=True)
class Notebook:
    """A template, what the index says of it, and the files that it reads besides the results."""

    name: str
    about: str
    reads: dict[str, Path]


ALL = (
    Notebook(
        "representation",
        "Dimensions that an image's features need, alone and in a shared basis; how tokens spread energy.",
        {"data": MANIFEST, "reference": REFERENCE},
    ),
    Notebook(
        "distillation",
        "What the students reach under each objective, which differences are shown, and what they cost.",
        {"data": MANIFEST, "reference": REFERENCE, "studies": STUDIES},
    ),
    Notebook(
        "audit",
        "Every published claim with its verdict, the reason and the evidence, by this run and by every study.",
        {"audit": AUDIT},
    ),
)


def main() -> None:
    """Write every notebook, its figures and page, and an index; remove figures that none writes any more."""
    pages, figures = [], set()
    for notebook in ALL:
        template = TEMPLATES / f"{notebook.name}.ipynb"
        read = {"results": RESULTS, **notebook.reads}
        figures |= set(
            render(
                template,
                NOTEBOOKS / template.name,
                HTML / f"{notebook.name}.html",
                FIGURES,
                {name: path.as_posix() for name, path in read.items()},
            )
        )
        pages.append(Page(f"{notebook.name}.html", title(template), notebook.about))
    index(pages, HTML / "index.html")
    for path in FIGURES.iterdir():
        if path.suffix in (".svg", ".png") and path.stem.removesuffix("_dark") not in figures:
            path.unlink()


if __name__ == "__main__":
    run(main)
