"""The report's pages, made from the executed notebooks and results of the last commit."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from stages import report
from stages.core.report.dashboard import Drawn, write_dashboard
from stages.core.report.pages import captions, notebook_page
from stages.paths import FIGURES, HTML


def write_pages(project: Path) -> Path:
    """The pages of a project, from its executed notebooks and results, as stage `report` writes them."""
    with contextlib.chdir(project):
        pages = [report.INDEX, *(notebook.page for notebook in report.ALL)]
        drawn: dict[str, Drawn] = {}
        for notebook in report.ALL:
            executed = nbformat.read(report.NOTEBOOKS / f"{notebook.name}.ipynb", as_version=4)
            notebook_page(executed, HTML / notebook.page.file, FIGURES, pages)
            drawn |= {name: Drawn(notebook.page.file, caption) for name, caption in captions(executed).items()}
        write_dashboard(HTML / report.INDEX.file, drawn, report.PLACES, pages)
    return project / HTML


@pytest.fixture(scope="session")
def site(committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages of the committed results, beside all that they lead to."""
    project = tmp_path_factory.mktemp("site")
    for name in ("reports", "stages", "params.yaml", "dvc.lock"):
        (project / name).symlink_to(committed / name)
    return write_pages(project)


@pytest.fixture
def site_with_study(committed: Path, tmp_path: Path) -> Iterator[Path]:
    """The pages where the committed results are recorded as a study, too."""
    for name in ("stages", "params.yaml", "dvc.lock"):
        (tmp_path / name).symlink_to(committed / name)
    reports = tmp_path / "reports"
    reports.mkdir()
    for path in (committed / "reports").iterdir():
        if path.name != "studies":
            (reports / path.name).symlink_to(path)
    (reports / "studies").mkdir()
    for path in (committed / "reports/studies").iterdir():
        (reports / "studies" / path.name).symlink_to(path)
    study = reports / "studies/first"
    study.mkdir()
    for name in ("results", "figures"):
        shutil.copytree(reports / name, study / name)
    for name in ("metrics.json", "audit.json", "data.json"):
        shutil.copy(reports / name, study)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(committed / name, study)
    hardware = {"cpu": "A CPU", "cores": 16, "memory_gib": 128.0, "gpus": [{"name": "A GPU", "memory_gib": 80.0}]}
    record = {"date": "2026-01-02", "commit": "0123456789abcdef", "versions": {"torch": "2.99"}, "hardware": hardware}
    (study / "record.json").write_text(json.dumps(record))
    return write_pages(tmp_path)
