from pathlib import Path

import pytest

from stages import readme


def test_the_readme_shows_the_tracked_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.with_results(text), "run: python -m stages.readme"
