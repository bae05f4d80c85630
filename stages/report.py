"""Render the notebooks: executed copies and figures for git, pages to read in a browser."""

from dataclasses import dataclass
from pathlib import Path

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import prune, read_json
from stages.core.report.dashboard import Drawn, Places, write_dashboard
from stages.core.report.markup import DARK
from stages.core.report.pages import Page
from stages.core.report.rendering import render
from stages.paths import AUDIT, FIGURES, HTML, MANIFEST, PERFORMANCE, REFERENCE, REPORTS, RESULTS, STUDIES

TEMPLATES = Path("notebooks")
NOTEBOOKS = REPORTS / "notebooks"
INDEX = Page("index.html", "Overview")

# What the first page leads to, besides pages and tables.
FILES = {
    "params.yaml": "every parameter of this run",
    "dvc.lock": "what each stage read and wrote, by digests",
    "reports/metrics.json": "the headline numbers, as `dvc metrics show` prints them",
    "reports/data.json": "the images: splits, classes, counts, digests",
    "reports/audit.json": "every published claim with its verdict",
    "reports/claims.md": "the same in the words of reproducibility tracks, with commands and prices",
    "reports/README.md": "what each file and column means",
    "reports/performance.md": "how long the default run and its stages take, on which machine",
}

PLACES = Places(RESULTS, MANIFEST, AUDIT, REFERENCE, STUDIES, FIGURES, PERFORMANCE, FILES)


@dataclass(frozen=True)
class Notebook:
    """A template, the files that it reads besides the results, and the one of the results that it is about."""

    name: str
    reads: dict[str, Path]
    about: Path

    @property
    def page(self) -> Page:
        """The page that it becomes."""
        return Page(f"{self.name}.html", self.name.capitalize())


ALL = (
    Notebook("representation", {"data": MANIFEST, "reference": REFERENCE}, RESULTS / "svd.json"),
    Notebook("distillation", {"data": MANIFEST, "reference": REFERENCE, "studies": STUDIES}, RESULTS / "runs.csv"),
    Notebook("audit", {"audit": AUDIT, "reference": REFERENCE, "performance": PERFORMANCE}, AUDIT),
)


def main() -> None:
    """Write the notebooks of what was run, their figures and pages, and the first page; remove what is not of this run.

    Raises:
        UserError: weights of backbones are missing; all is written of the others.
    """
    notebooks = [notebook for notebook in ALL if notebook.about.is_file()]
    pages = [INDEX, *(notebook.page for notebook in notebooks)]
    drawn: dict[str, Drawn] = {}
    messages.begin("report", f"{len(notebooks)} notebooks, their figures and {len(pages)} pages of the tracked results")
    for notebook in messages.bar(notebooks, "report", "notebook"):
        template = TEMPLATES / f"{notebook.name}.ipynb"
        read = {"results": RESULTS, **notebook.reads}
        captions = render(
            template,
            NOTEBOOKS / template.name,
            HTML / notebook.page.file,
            FIGURES,
            {name: path.as_posix() for name, path in read.items()},
            pages,
        )
        drawn |= {name: Drawn(notebook.page.file, caption) for name, caption in captions.items()}
    write_dashboard(HTML / INDEX.file, drawn, PLACES, pages)
    for path in FIGURES.iterdir():
        if path.suffix in (".svg", ".png") and path.stem.removesuffix(DARK) not in drawn:
            path.unlink()
    prune(NOTEBOOKS, [f"{notebook.name}.ipynb" for notebook in notebooks])
    messages.end("report", f"{len(drawn)} figures; to open in a browser", HTML / INDEX.file)
    weights = RESULTS / "weights.json"
    missing = [name for name, of in read_json(weights).items() if "missing" in of] if weights.is_file() else []
    if missing:
        names = ", ".join(missing)
        raise UserError(f"not analysed, for want of weights: {names}; all else is, and {weights} says what to bring")


if __name__ == "__main__":
    run(main)
