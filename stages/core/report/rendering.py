"""Executing the report's notebooks, for git and as pages."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from stages.core.base.errors import UserError
from stages.core.base.files import write_text
from stages.core.report.pages import Page, captions, notebook_page

KERNEL = "python3"
PATIENCE_S = 600  # for a kernel to start, and to send outputs: imports from a cold network disk take minutes
DIED = "the kernel died, perhaps for lack of memory; run the stage again"

logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it logs, an error's one line says


def render(
    template: Path,
    notebook_out: Path,
    html_out: Path,
    figures_folder: Path,
    parameters: Mapping[str, str],
    pages: Sequence[Page] = (),
) -> dict[str, str]:
    """Execute one template and write it as a notebook and as a page; equal results give equal bytes.

    Nothing but figures is written unless every cell succeeds. What cells and libraries write to stderr goes to this
    process's, and into neither notebook nor page: warnings name local paths, and come and go with caches and versions.

    Args:
        template: a notebook without outputs, with a cell tagged "parameters".
        notebook_out: the executed notebook.
        html_out: the page: prose, figures and tables, no code, nothing fetched from a network.
        figures_folder: the notebook's parameter `figures`.
        parameters: the notebook's other parameters.
        pages: of the report, to which the page has links.

    Returns:
        The captions of the figures that the notebook wrote, by their names without suffix.

    Raises:
        UserError: the template is missing or has no such parameter, a cell fails, or the kernel does not start or dies.
    """
    given = {**parameters, "figures": figures_folder.as_posix()}
    if not template.is_file():
        raise UserError(f"{template} is missing; `git restore {template}` brings it back")
    unknown = sorted(set(given) - set(papermill.inspect_notebook(str(template))))
    if unknown:
        raise UserError(f"{template} has no parameter {', '.join(unknown)}; add it to the cell tagged parameters")
    notebook = _clean(_without_empty_sections(_execute(template, given)))
    notebook_page(notebook, html_out, figures_folder, pages)
    write_text(notebook_out, nbformat.writes(notebook) + "\n")
    return captions(notebook)


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
                start_timeout=PATIENCE_S,
                iopub_timeout=PATIENCE_S,
            )
        except PapermillExecutionError as error:
            raise UserError(f"{template}: {_failure(error)}") from None
        except DeadKernelError:
            raise UserError(f"{template}: {DIED}") from None
        except RuntimeError as error:  # jupyter_client has no class of its own for these
            if str(error).startswith("Kernel died"):
                raise UserError(f"{template}: {DIED}") from None
            if str(error).startswith("Kernel didn't respond"):
                raise UserError(
                    f"{template}: its kernel did not start within {PATIENCE_S:g} s; run the stage again when the "
                    "machine, or the disk that holds Python's packages, is less busy"
                ) from None
            raise


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


def _without_empty_sections(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove each heading (##, ###), its text and its code where the code shows nothing: that was not run."""
    sections: list[list[nbformat.NotebookNode]] = [[]]  # the first has no heading
    for one in notebook.cells:
        if one.cell_type == "markdown" and one.source.startswith("##"):
            sections.append([])
        sections[-1].append(one)

    def empty(section: list[nbformat.NotebookNode]) -> bool:
        code = [one for one in section if one.cell_type == "code"]
        return bool(code) and not any(one.outputs for one in code)

    notebook.cells = [*sections[0], *(one for section in sections[1:] if not empty(section) for one in section)]
    return notebook


def _clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs between runs or machines: times, versions, ids, all metadata but tags, and warnings.

    What stands on the notebook's stderr is written to this process's.
    """
    kernel = {"display_name": "Python 3", "language": "python", "name": KERNEL}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, one in enumerate(notebook.cells):
        one.id = f"cell-{number}"
        tags = one.metadata.get("tags")
        one.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        warnings = [output for output in one.get("outputs", []) if output.get("name") == "stderr"]
        if warnings:
            sys.stderr.writelines(output.text for output in warnings)
            one.outputs = [output for output in one.outputs if output not in warnings]
    return notebook
