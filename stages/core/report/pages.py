"""Pages of the report that open without a network: an executed notebook as a page, in the frame that all share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from markupsafe import Markup

from stages.core.base.files import write_text
from stages.core.report.markup import Heading, Prose, fill, picture


@dataclass(frozen=True)
class Page:
    """One page of the report, for the bar that leads from each to all: file name and label."""

    file: str
    label: str


def write_page(out: Path, title: str, body: Markup, headings: Sequence[Heading], pages: Sequence[Page] = ()) -> None:
    """Write a page with its style sheet, its script, a bar that leads to `pages`, and a table of contents."""
    write_text(out, fill("page.html", title=title, body=body, headings=headings, pages=pages, file=out.name) + "\n")


def notebook_page(notebook: nbformat.NotebookNode, out: Path, figures_folder: Path, pages: Sequence[Page]) -> None:
    """Write an executed notebook as a page: prose, figures and tables, no code.

    Args:
        notebook: executed.
        out: the page.
        figures_folder: the folder of the notebook's figures, which `stages.core.report.notebooks.show` wrote.
        pages: of the report.
    """
    prose, parts = Prose(), []
    where = os.path.relpath(figures_folder, out.parent)
    for one in notebook.cells:
        if one.cell_type == "markdown":
            parts.append(prose.html(one.source))
        outputs = iter(one.get("outputs", []))
        for output in outputs:
            data = output.get("data", {})
            if name := _figure_name(output):
                image = picture(name, figures_folder, output.metadata["image/png"]["alt"])
                caption = prose.html(next(outputs).data["text/markdown"])
                parts.append(fill("figure.html", name=name, link=f"{where}/{name}.svg", picture=image, caption=caption))
            elif "text/html" in data:
                parts.append(Markup(data["text/html"]))
            elif "text/markdown" in data:
                text = prose.html(data["text/markdown"])
                caption = data["text/markdown"].startswith("**Table.**")
                parts.append(Markup('<div class="caption">{}</div>').format(text) if caption else text)
            elif "image/png" in data:
                parts.append(Markup('<img src="data:image/png;base64,{}" alt="">').format(data["image/png"].strip()))
            else:
                parts.append(Markup("<pre>{}</pre>").format(output.get("text") or data.get("text/plain", "")))
    write_page(out, title(notebook) or out.stem, Markup("\n").join(parts), prose.headings, pages)


def title(notebook: nbformat.NotebookNode) -> str | None:
    """The first heading of a notebook."""
    lines = (line for one in notebook.cells if one.cell_type == "markdown" for line in one.source.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), None)


def captions(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The captions of the figures that an executed notebook shows, by their names without suffix."""
    outputs = [output for one in notebook.cells for output in one.get("outputs", [])]
    return {name: output.metadata["image/png"]["alt"] for output in outputs if (name := _figure_name(output))}


def _figure_name(output: nbformat.NotebookNode) -> str | None:
    """The name of the figure that an output is, which `stages.core.report.notebooks.show` put into its metadata."""
    return output.get("metadata", {}).get("image/png", {}).get("figure")
