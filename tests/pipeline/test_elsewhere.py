"""The tests themselves: set up as README says, started in any folder, whatever a run has left in reports/."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

# Tests that compare pages with results.
CHOSEN = ("report/test_html_pages.py", "report/test_browser.py", "tools/test_readme.py", "pipeline/test_pages.py")
NAMES = "generated_blocks or explained or dashboards or table_of_claims or pages_fit"


@pytest.fixture(scope="module")
def clone(root: Path, committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit with a few of its tests, in which another machine has run the pipeline since."""
    if committed == root:
        pytest.skip("no git here, and no commit that could be cloned")
    folder = tmp_path_factory.mktemp("elsewhere") / "clone"
    shutil.copytree(committed, folder, ignore=shutil.ignore_patterns("test_*.py"))
    for name in CHOSEN:
        shutil.copy(committed / "tests" / name, folder / "tests" / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "start")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    for path in (folder / "reports/results").iterdir():
        moved = re.sub(r"\d+\.\d+", lambda number: f"{1.001 * float(number[0]):.6f}", path.read_text(encoding="utf-8"))
        path.write_text(moved, encoding="utf-8")
    (folder / "params.yaml").write_text("profile: of an experiment\n")
    return folder


@pytest.fixture
def call(clone: Path, tmp_path: Path) -> Callable[..., str]:
    """Give README's test command, with options, in a folder; nothing leads to this repository or to a browser."""
    (tmp_path / "git").symlink_to(shutil.which("git") or "")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    variables["PATH"] = str(tmp_path)

    def called(folder: Path, *options: str) -> str:
        script = Path(sys.executable).with_name("pytest")
        ended = subprocess.run([script, "-n0", *options], cwd=folder, env=variables, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return called


def test_they_pass_beside_the_results_of_another_machine_and_say_what_they_lack(clone, call):
    *_, counts, last = call(clone / "stages/core", "-k", NAMES).splitlines()  # a folder without tests: all of them
    assert re.fullmatch(r"=+ \d+ passed, 4 skipped, \d+ deselected in .*", counts), counts
    assert last == "WARNING: 4 tests of the report's pages did not run, since there is no Chromium here"


def test_they_are_collected_from_outside_the_repository(clone, call, tmp_path):
    assert "test_nothing_is_fetched[index]" in call(tmp_path, str(clone / "tests/report"), "--collect-only", "-q")
