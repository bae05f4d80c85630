"""What a machine has set up, and what libraries warn of, does not show in what is rendered; kernels that fail."""

import functools
import json
import sys

import nbformat
import pytest

from stages.core.base.errors import UserError
from stages.core.report import rendering
from stages.core.report.rendering import _without_empty_sections, render

CELL = """import sys
import matplotlib.pyplot
import numpy as np
try:
    disturbed
except NameError:
    print("plain")
print(matplotlib.rcParams["lines.linewidth"])"""


NOISE = """import logging, os, sys, warnings
warnings.warn("Glyph 20013 missing from font(s) DejaVu Sans.")
logging.warning("Matplotlib is building the font cache")
sys.stderr.write("Fontconfig warning\\n")
os.write(2, b"from a library in C\\n")
print("kept")"""


def write(tmp_path, source):
    cells = [nbformat.v4.new_code_cell("figures = ''", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell(source))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "page.ipynb")
    return tmp_path / "page.ipynb"


@pytest.fixture
def template(tmp_path):
    return write(tmp_path, CELL)


@pytest.mark.processes
def test_what_libraries_print_on_stderr_is_in_no_page(tmp_path, capfd):
    render(write(tmp_path, NOISE), tmp_path / "out.ipynb", tmp_path / "out.html", tmp_path / "figures", {})
    outputs = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    assert outputs == [{"output_type": "stream", "name": "stdout", "text": "kept\n"}]
    words = ("Glyph 20013", "font cache", "Fontconfig", "from a library in C")
    page, said = (tmp_path / "out.html").read_text(), capfd.readouterr().err
    assert [word for word in words if word in page] == [] and [word for word in words if word not in said] == []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "patience_s", "said"),
    [
        ("import time; time.sleep(99)", 1, "did not start within 1 s; run the stage again"),
        ("", 99, "the kernel died, per"),
    ],
)
def test_a_kernel_that_does_not_start_ends_in_one_line(template, tmp_path, monkeypatch, program, patience_s, said):
    def write_kernel_spec(folder):
        folder.mkdir(parents=True)
        argv = [sys.executable, "-c", program, "{connection_file}"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "K", "language": "python"}))

    monkeypatch.setattr(rendering, "write_kernel_spec", write_kernel_spec)
    monkeypatch.setattr(rendering, "PATIENCE_S", patience_s)
    monkeypatch.setattr(rendering, "_settings_folder", functools.cache(rendering._settings_folder.__wrapped__))
    with pytest.raises(UserError, match=said) as caught:
        render(template, tmp_path / "out.ipynb", tmp_path / "out.html", tmp_path / "figures", {})
    assert "\n" not in str(caught.value) and not (tmp_path / "out.ipynb").exists()


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
