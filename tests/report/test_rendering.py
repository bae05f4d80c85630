"""What a machine has set up for Jupyter, IPython and matplotlib does not show in what is rendered."""

import json

import nbformat
import pytest

from stages.core.report.rendering import _without_empty_sections, render

CELL = """import sys
import matplotlib.pyplot
import numpy as np
try:
    disturbed
except NameError:
    print("plain")
print(matplotlib.rcParams["lines.linewidth"])"""


@pytest.fixture
def template(tmp_path):
    cells = [nbformat.v4.new_code_cell("figures = ''", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell(CELL))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "page.ipynb")
    return tmp_path / "page.ipynb"


@pytest.mark.processes
def test_notebooks_are_the_same_whatever_the_users_home_holds(template, tmp_path, monkeypatch):
    home = tmp_path / "home"
    kernel = home / ".local/share/jupyter/kernels/python3"
    startup = home / ".ipython/profile_default/startup"
    settings = home / ".config/matplotlib"
    for folder in (kernel, startup, settings):
        folder.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "Mine", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    (startup / "mine.py").write_text("disturbed = True")
    (settings / "matplotlibrc").write_text("lines.linewidth: 9\n")
    monkeypatch.setenv("JUPYTER_PATH", str(kernel.parents[1]))
    monkeypatch.setenv("MATPLOTLIBRC", str(settings))
    monkeypatch.setenv("IPYTHONDIR", str(home / ".ipython"))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    found = []
    for folder in (home, tmp_path / "file"):
        (tmp_path / "file").touch()  # where a folder should be, nothing can be written, not even by root
        monkeypatch.setenv("HOME", str(folder))
        render(template, tmp_path / "out.ipynb", tmp_path / "out.html", tmp_path / "figures", {})
        found.append(nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs)
    assert found[0] == found[1] == [{"output_type": "stream", "name": "stdout", "text": "plain\n1.5\n"}]


def test_a_section_whose_code_shows_nothing_is_left_out():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    shows = [nbformat.v4.new_output("stream", text="shown")]
    cells = [
        *(markdown("# Title"), code("import stages")),
        *(markdown("## Run"), code("show()", outputs=shows), code("helper()")),
        *(markdown("## Not run"), markdown("What it would be."), code("if False: show()")),
        *(markdown("## Words alone"), markdown("### Not run within"), code("if False: show()")),
    ]
    left = _without_empty_sections(nbformat.v4.new_notebook(cells=cells)).cells
    expected = ["# Title", "import stages", "## Run", "show()", "helper()", "## Words alone"]
    assert [one.source for one in left] == expected
