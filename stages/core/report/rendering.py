"""Executing the report's notebooks and exporting them as pages that open without a network."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from stages.core.base.errors import UserError
from stages.core.base.files import write_text

KERNEL = "python3"
STYLE = """
body { font: 16px/1.55 "DejaVu Sans", Verdana, Arial, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; margin-top: 2em; }
h1 { margin-top: 0; }
a { color: #0b5394; }
img { max-width: 100%; height: auto; display: block; }
code { background: #f2f2f2; padding: 0 0.2em; }
table { border-collapse: collapse; font-size: 0.82em; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: 0.3em 0.7em; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #555; }
.anchor-link, .jp-InputPrompt, .jp-OutputPrompt, .prompt { display: none; }
"""


@dataclass(frozen=True)
class Page:
    """One page of the report, for its index: file name, title, and one line about it."""

    file: str
    title: str
    about: str


def render(
    template: Path, notebook_out: Path, html_out: Path, figures_folder: Path, parameters: Mapping[str, str]
) -> list[str]:
    """Execute one template and write it as a notebook and as a page; equal results give equal bytes.

    Nothing but figures is written unless every cell succeeds.

    Args:
        template: a notebook without outputs, with a cell tagged "parameters".
        notebook_out: the executed notebook.
        html_out: the page: prose, figures and tables, no code, nothing fetched from a network.
        figures_folder: what the notebook is given as `figures`.
        parameters: the notebook's other parameters.

    Returns:
        The names of the figures that the notebook wrote, without suffix.

    Raises:
        UserError: the template is missing or has no such parameter, or a cell fails.
    """
    given = {**parameters, "figures": figures_folder.as_posix()}
    if not template.is_file():
        raise UserError(f"{template} is missing; `git restore {template}` brings it back")
    unknown = sorted(set(given) - set(papermill.inspect_notebook(str(template))))
    if unknown:
        raise UserError(f"{template} has no parameter {', '.join(unknown)}; add it to the cell tagged parameters")
    notebook = _clean(_execute(template, given))
    page = _page(notebook)
    write_text(notebook_out, nbformat.writes(notebook) + "\n")
    write_text(html_out, page)
    return _figures(notebook)


def title(notebook: Path) -> str:
    """The first heading of a notebook, or its file's name if it has none."""
    for one in nbformat.read(notebook, as_version=4).cells:
        if one.cell_type == "markdown" and (found := re.search(r"^# +(.+)$", one.source, re.MULTILINE)):
            return found[1].strip()
    return notebook.stem


def index(pages: Sequence[Page], out: Path) -> None:
    """Write a page that links `pages`, which lie in the same folder, with one line about each."""
    items = "\n".join(
        f'<li><p><a href="{escape(page.file)}">{escape(page.title)}</a><br>{escape(page.about)}</p></li>'
        for page in pages
    )
    write_text(out, _document("Report", f"<h1>Report</h1>\n<ul>\n{items}\n</ul>"))


def _execute(template: Path, parameters: Mapping[str, str]) -> nbformat.NotebookNode:
    with tempfile.TemporaryDirectory() as folder, _own_settings():
        try:
            return papermill.execute_notebook(
                str(template.resolve()),
                str(Path(folder) / template.name),
                parameters=dict(parameters),
                kernel_name=KERNEL,
                progress_bar=False,
                log_output=False,
                cwd=str(Path.cwd()),
                extra_arguments=["--log-level=CRITICAL"],
            )
        except PapermillExecutionError as error:
            raise UserError(f"{template}: {_failure(error)}") from None
        except DeadKernelError:
            raise UserError(f"{template}: the kernel died, perhaps for lack of memory; run the stage again") from None


@contextmanager
def _own_settings() -> Iterator[None]:
    """Let kernels use this Python, and no settings or folders of the user's.

    Another Python's kernel may be installed under the same name, a home folder may be read-only, and settings of
    matplotlib or IPython would show in what git tracks.
    """
    folder = Path(_settings_folder().name)
    names = {"JUPYTER_PATH": "jupyter", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    names |= {"MPLCONFIGDIR": "matplotlib"}
    before = {name: os.environ.get(name) for name in (*names, "MATPLOTLIBRC")}
    os.environ.pop("MATPLOTLIBRC", None)
    os.environ |= {name: str(folder / part) for name, part in names.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@cache
def _settings_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with a kernel of this Python, kept until the process ends: matplotlib lists fonts there once."""
    folder = tempfile.TemporaryDirectory()
    write_kernel_spec(Path(folder.name) / "jupyter/kernels" / KERNEL)
    return folder


def _failure(error: PapermillExecutionError) -> str:
    """The cell, the line of it that failed, and the error, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback or []))
    marked = re.search(r"^-+> *\d+ (.*)$", text, re.MULTILINE)  # the first frame is the cell's own
    line = marked[1] if marked else (error.source.strip().splitlines() or [""])[-1]
    said = " ".join(str(error.evalue).split())
    return f"cell {error.cell_index} fails at `{line.strip()}`: {error.ename}: {said}"


def _clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs from run to run or machine to machine: times, versions, ids, all metadata but tags."""
    kernel = {"display_name": "Python 3", "language": "python", "name": KERNEL}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, one in enumerate(notebook.cells):
        one.id = f"cell-{number}"
        tags = one.metadata.get("tags")
        one.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    return notebook


def _page(notebook: nbformat.NotebookNode) -> str:
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r"<script\b.*?</script>|<link\b[^>]*>", "", body, flags=re.DOTALL | re.IGNORECASE)
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
    name = re.sub(r"<[^>]+>", "", heading[1]).strip() if heading else "Report"
    return _document(name, '<p><a href="index.html">Report</a></p>\n' + body)


def _document(name: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body.strip()}\n</body>\n</html>\n"
    )


def _figures(notebook: nbformat.NotebookNode) -> list[str]:
    """What `stages.core.report.notebooks.show` left in the metadata of the images."""
    outputs: list[Any] = [output for one in notebook.cells for output in one.get("outputs", [])]
    kept = [output.get("metadata", {}) for output in outputs]
    named = [data.get("figure") or data.get("image/png", {}).get("figure") for data in kept]
    return [name for name in named if name]
