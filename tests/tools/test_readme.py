"""The generated blocks of the pages: what is tracked, of the default run, and of nothing else."""

import re
import shutil
from pathlib import Path

import pytest

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.comparison import comparison_table
from stages.core.evidence.differences import differences_table
from stages.core.report.notebooks import read_table
from stages.tools import readme


def test_one_seed_has_no_deviation_and_a_wider_student_no_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / readme.RESULTS, tmp_path / "results")
    runs = read_table(root / readme.RESULTS / "runs.csv")
    runs = runs[(runs["objective"] == "none") & (runs["seed"] == 0) & (runs["strategy"] == "lift")]
    runs = runs.assign(top1=75.25, relative_feature_error=float("nan"))
    encoding = read_table(root / readme.RESULTS / "encoding.csv").assign(probe_error=0.125)
    runs.to_csv(tmp_path / "results/runs.csv", index=False)
    comparison_table(runs, encoding).to_csv(tmp_path / "results/comparison.csv", index=False)
    differences_table(runs, {}).to_csv(tmp_path / "results/differences.csv", index=False)
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results")
    for name in ("AUDIT", "MANIFEST"):
        monkeypatch.setattr(readme, name, root / getattr(readme, name))
    text = readme.results()
    assert "\n| `lift` | 75.25 | 0.125 |\n" in text
    assert "\nOne seed; the teacher" in text and "between 75.25 and 75.25 %" in text


def test_every_setting_has_its_cell(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    rows = [line.strip("| ").split(" | ") for line in readme.results().splitlines() if line.startswith("|")]
    table = {(row[0].strip("`"), name): cell for row in rows[2:] for name, cell in zip(rows[0], row, strict=True)}
    for one in read_table(readme.RESULTS / "comparison.csv").to_dict("records"):
        cell = table[one["strategy"], f"top-1, %: `{one['objective']}`"]
        assert cell == f"{one['top1_mean']:.2f} ± {one['top1_std']:.2f}"


def test_a_setting_that_was_not_trained_is_a_dash(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    complete = readme.comparison
    monkeypatch.setattr(readme, "comparison", lambda rows: complete(rows)[1:])  # without baseline-none
    (row,) = (line for line in readme.results().splitlines() if line.startswith("| `baseline` |"))
    cells = row.strip("| ").split(" | ")
    assert [cell == "–" for cell in cells] == [False, False, True, False, True]


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """README and params.yaml of the project, in the working directory."""
    for name in ("README.md", "params.yaml"):
        shutil.copy(root / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["readme"])
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

    monkeypatch.setattr("stages.tools.record.output_of", stale)
    before = (project / "README.md").read_text()
    with pytest.raises(UserError, match=r"not up to date \(train@lift-mse-1\); run `dvc repro`"):
        readme.main()
    assert (project / "README.md").read_text() == before


def test_a_page_without_its_markers_is_not_written(project: Path) -> None:
    page = Path("README.md")
    text = page.read_text().replace("<!-- end of time -->", "")
    with pytest.raises(UserError, match=r"^README\.md lacks the marker .*<!-- end of time -->; put it back$"):
        readme.with_blocks(page, text, ["time"])


def test_an_unknown_block_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["readme", "result"])
    with pytest.raises(UserError, match=r"^result: no such block; it must be one of paper, time, results"):
        readme.main()


def test_the_promises_name_tests_that_exist_and_enough_was_measured(root: Path) -> None:
    section = (root / "tests/README.md").read_text(encoding="utf-8").partition("## What is promised")[2]
    promises = section.partition("\n## ")[0]
    named = re.findall(r"`((?:tests|reports)/[\w/]+\.\w+)`", promises)
    assert len(named) > 10 and [name for name in named if not (root / name).is_file()] == []
    faults = read_json(root / "reports/faults.json")
    assert faults["kills"] >= 100 and faults["while_a_checkpoint_was_written"] >= 10
    assert faults["recoveries_equal_to_the_reference"] >= 10


def test_measured_promises_are_those_of_the_records(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    growth = read_json(Path("reports/performance/growth-cpu.json"))
    farthest = max(abs(off) for one in growth["results"].values() for off in one["off_the_line"])
    text = readme.promises()
    assert f" {read_json(Path('reports/faults.json'))['kills']} kills, " in text
    assert f"times within {farthest:.1%} of a line".replace("%", " %") in text
    page = Path("tests/README.md")
    written = page.read_text(encoding="utf-8")
    assert written == readme.with_blocks(page, written, ["promises"]), "run: python -m stages.tools.readme promises"


def test_published_figures_are_those_of_the_reference(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    text = readme.paper()
    assert "61 of CaiT-S24's 384 dimensions" in text and "all images needs 302." in text
    assert "from 74.86 to 77.53 and 78.23 %" in text  # the abstract of arXiv 2511.15572


def test_scales_are_the_profiles_with_their_widths(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    rows = {line.split(" | ")[0]: line for line in readme.scales().splitlines()[2:]}
    assert set(rows) == {f"| `{path.stem}`" for path in (root / "stages/conf/profile").glob("*.yaml")}
    for profile in ("cifar100", "imagenet"):  # the paper's widths
        assert "`cait_s24_224`, 384 wide" in rows[f"| `{profile}`"] and "| 192 wide" in rows[f"| `{profile}`"]
