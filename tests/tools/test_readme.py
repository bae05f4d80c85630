"""README's table of results: what is tracked, of the default run, and of nothing else."""

import re
import shutil
from pathlib import Path

import pytest

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.comparison import comparison_table
from stages.core.evidence.statistics import differences_table
from stages.core.report.notebooks import read_table
from stages.tools import readme


def test_the_readme_shows_the_tracked_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.with_results(text), "run: python -m stages.tools.readme"


def test_one_seed_has_no_deviation_and_a_wider_student_no_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / readme.RESULTS, tmp_path / "results")
    runs = read_table(root / readme.RESULTS / "runs.csv")
    runs = runs[(runs["objective"] == "none") & (runs["seed"] == 0) & (runs["strategy"] == "lift")]
    runs = runs.assign(top1=75.25, relative_feature_error=float("nan"))
    encoding = read_table(root / readme.RESULTS / "encoding.csv").assign(probe_error=0.125)
    comparison_table(runs, encoding).to_csv(tmp_path / "results/comparison.csv", index=False)
    differences_table(runs, {}).to_csv(tmp_path / "results/differences.csv", index=False)
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(readme, "AUDIT", root / readme.AUDIT)
    assert "\n| lift | none | 1 | 75.25 | 0.125 | – |\n" in readme.results_table()


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """README and params.yaml of the project, in the working directory."""
    for name in ("README.md", "params.yaml"):
        shutil.copy(root / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_of_other_parameters_are_not_written(project: Path) -> None:
    before = (project / "README.md").read_text()
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 12", "epochs: 2", 1))
    with pytest.raises(
        UserError, match=r"^params\.yaml is not the composed default, .*; run `python -m stages\.tools\.compose"
    ):
        readme.main()
    assert (project / "README.md").read_text() == before


def test_results_that_are_not_up_to_date_are_not_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*command: str) -> str:
        return '{"train@lift-mse-1": [{"changed outs": {}}], "prepare": ["always changed"]}'

    monkeypatch.setattr("stages.tools.record.said", stale)
    before = (project / "README.md").read_text()
    with pytest.raises(UserError, match=r"not up to date \(train@lift-mse-1\); run `dvc repro`"):
        readme.main()
    assert (project / "README.md").read_text() == before


def test_the_promises_name_tests_that_are_there_and_figures_that_were_recorded(root: Path) -> None:
    section = (root / "README.md").read_text(encoding="utf-8").partition("## What it promises")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:tests|reports)/[\w/]+\.\w+)`", section)
    assert len(named) > 10 and [name for name in named if not (root / name).is_file()] == []
    faults = read_json(root / "reports/faults.json")
    assert faults["kills"] >= 100 and faults["while_a_checkpoint_was_written"] >= 10
    assert (
        f"{faults['kills']} kills, {faults['while_a_checkpoint_was_written']} of them while a checkpoint was written; "
        f"{faults['recoveries_equal_to_the_reference']} recoveries, all equal to the uninterrupted run bit for bit"
    ) in section
    growth = read_json(root / "reports/performance/growth-cpu.json")["results"].values()
    memory, time = max(one["growth"] for one in growth), max(abs(off) for one in growth for off in one["off_the_line"])
    assert f"peak memory within {memory:.1%}, times within {time:.1%} of a line".replace("%", " %") in section
