"""dvc.yaml lists, for each stage, exactly the code that its module imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml


def imported(source: str, root: Path) -> set[Path]:
    """The project's modules that some code names in its import statements, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            package = root / Path(*node.module.split("."))  # type: ignore[union-attr]
            for alias in node.names:
                inside = package / f"{alias.name}.py"
                found.add(inside if inside.is_file() else package.with_suffix(".py"))
    return {path for path in found if path.is_file()}


def closure(waiting: set[Path], root: Path) -> set[str]:
    seen: set[Path] = set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        waiting |= imported(current.read_text(), root) - seen
    return {path.relative_to(root).as_posix() for path in seen}


def stages() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", stages())
def test_listed_code_is_the_imported_code(stage: str, root: Path) -> None:
    listed = {dep for dep in stages()[stage]["deps"] if dep.endswith(".py")}
    expected = closure({root / f"stages/{stage}.py"}, root)
    for notebook in (dep for dep in stages()[stage]["deps"] if dep.endswith(".ipynb")):
        expected |= notebook_code(root / notebook, root)
    assert listed == expected


def notebook_code(notebook: Path, root: Path) -> set[str]:
    """The project's modules that a notebook's code cells import."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return closure(imported(source, root), root)


@pytest.mark.parametrize(
    "module", ["check", "watch", "prepare", "svd", "pca", "sep", "rotation", "summarize", "audit", "report"]
)
def test_a_stage_that_needs_no_torch_does_not_import_it(module: str) -> None:
    program = f"import sys, stages.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_hashed_requirements_are_the_constraints(root):
    pinned = [line for line in (root / "constraints.txt").read_text().splitlines() if "==" in line]
    hashed = [line for line in (root / "requirements-hashed.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line.partition(" ")[0] for line in hashed] == pinned
    assert all(re.fullmatch(r"\S+ --hash=sha256:[0-9a-f]{64}", line) for line in hashed)
