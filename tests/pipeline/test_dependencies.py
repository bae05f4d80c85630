"""The house's rules of import, and dvc.yaml, which lists for each stage the wings of code that its module imports."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from stages.core.analysis import registry

ROOT = Path(__file__).resolve().parents[2]
# From below: a wing imports from itself and from those before it.
WINGS = (
    *("base", "runtime", "config", "data", "models"),
    *("features", "analysis", "losses", "train", "distillation", "evidence", "report"),
)
# The analyses that a stage finds by name.
LOADED = {name: (name,) for name in registry.NAMES}
LOADED |= dict.fromkeys(("check", "summarize"), (*registry.NAMES, *registry.OF_MODELS))
LOADED["encode"] = registry.OF_STUDENTS
WITHOUT_TORCH = (
    "check",
    "watch",
    "prepare",
    "analyse",
    "summarize",
    "audit",
    "report",
)


def statements(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """Import statements wherever they stand, but for those that are read by type checkers alone."""
    found: list[ast.Import | ast.ImportFrom] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        found += statements(node)
    return found


def module_file(dotted: str) -> Path | None:
    place = ROOT / Path(*dotted.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported(source: str) -> set[Path]:
    """The project's modules that some code imports."""
    names: set[str] = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {module_file(name) for name in names if name.partition(".")[0] == "stages"}
    return {file for file in files if file is not None}


@cache
def imported_by(file: Path) -> frozenset[Path]:
    return frozenset(imported(file.read_text(encoding="utf-8")))


def closure(waiting: set[Path]) -> set[Path]:
    seen: set[Path] = set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        waiting |= imported_by(current) - seen
    return {file for file in seen if file.name != "__init__.py" or file.read_text().count("\nfrom ")}


def wing(file: Path) -> str | None:
    """The wing of stages/core that a file is in."""
    parts = file.relative_to(ROOT).parts
    return parts[2] if parts[:2] == ("stages", "core") and len(parts) > 3 else None


def as_dependency(file: Path) -> str:
    """What dvc.yaml lists of a file: its wing's folder, or itself."""
    found = wing(file)
    return f"stages/core/{found}" if found else file.relative_to(ROOT).as_posix()


def notebook_code(notebook: Path) -> set[Path]:
    cells = nbformat.read(notebook, as_version=4).cells
    return imported("\n".join(cell.source for cell in cells if cell.cell_type == "code"))


def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml by name; of one that has items, what holds for each of them."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: entry.get("do", entry) for name, entry in stages.items()}


def library() -> list[Path]:
    return sorted((ROOT / "stages/core").rglob("*.py"))


@pytest.mark.parametrize("stage", pipeline())
def test_listed_code_is_the_imported_code(stage: str) -> None:
    listed = {dep for dep in pipeline()[stage]["deps"] if dep.startswith("stages/")}
    modules = {ROOT / f"stages/{'analyse' if stage in registry.NAMES else stage}.py"}
    modules |= {ROOT / f"stages/core/analysis/{name}.py" for name in LOADED.get(stage, ())}
    for notebook in (dep for dep in pipeline()[stage]["deps"] if dep.endswith(".ipynb")):
        modules |= notebook_code(ROOT / notebook)
    read = {"stages/core/losses"} if stage == "check" else set()  # for the names in it; it is not imported
    assert listed == {as_dependency(file) for file in closure(modules)} | read


def test_wings_import_downwards_only() -> None:
    upwards = []
    for file in library():
        own = wing(file)
        for other in imported_by(file):
            place = wing(other)
            if own and (place is None or WINGS.index(place) > WINGS.index(own)):
                upwards.append(f"{file.relative_to(ROOT)} imports {other.relative_to(ROOT)}")
    assert upwards == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    def reached(start: Path) -> set[Path]:
        seen: set[Path] = set()
        waiting = set(imported_by(start))
        while waiting:
            seen.add(current := waiting.pop())
            waiting |= imported_by(current) - seen
        return seen

    packages = {file for file in library() if file.name == "__init__.py"}
    circles = [file for file in library() if file not in packages and file in reached(file)]
    assert circles == []


def test_every_module_is_in_a_wing_and_every_wing_says_what_it_is() -> None:
    assert {file.name for file in (ROOT / "stages/core").iterdir() if file.suffix == ".py"} == {"__init__.py"}
    assert {folder.name for folder in (ROOT / "stages/core").iterdir() if (folder / "__init__.py").is_file()} == {
        *WINGS
    }
    for name in WINGS:
        package = ROOT / f"stages/core/{name}"
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        assert len((ast.get_docstring(tree) or "").splitlines()[0]) > 20
        (offered,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
        there = {path.stem for path in package.iterdir() if path.suffix == ".py"} | {
            path.name for path in package.iterdir() if (path / "__init__.py").is_file()
        }
        assert set(offered) <= there, name
        used = {
            other.relative_to(package).parts[0].removesuffix(".py")
            for folder in ("stages", "tests", "notebooks")
            for file in (ROOT / folder).rglob("*.py")
            if not file.is_relative_to(package)
            for other in imported_by(file)
            if other.is_relative_to(package) and other != package / "__init__.py"
        }
        if name == "report":
            used |= {
                other.relative_to(package).parts[0].removesuffix(".py")
                for notebook in (ROOT / "notebooks").glob("*.ipynb")
                for other in notebook_code(notebook)
                if other.is_relative_to(package) and other != package / "__init__.py"
            }
        assert used <= set(offered), name


def test_the_library_knows_neither_command_line_nor_pipeline() -> None:
    """No module of stages/core reads the command line, params.yaml or a stage's path, or composes a configuration."""
    for file in library():
        text = file.read_text(encoding="utf-8")
        modules = {name.split(".")[0] for name in re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE)}
        assert not modules & {"argparse", "dvc", "hydra", "omegaconf"}, file
        assert not re.search(r"sys\.argv|Path\(\"(params\.yaml|artifacts|reports)", text), file


def test_a_stage_that_needs_no_torch_does_not_import_it() -> None:
    program = """
import importlib, json, sys
from stages.core.analysis import registry
loaded = [name for name in sys.argv[1:] if importlib.import_module(f"stages.{name}") and "torch" in sys.modules]
loaded += [name for name in (*registry.NAMES, *registry.OF_MODELS) if registry.load(name) and "torch" in sys.modules]
print(json.dumps(loaded))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == []


def test_the_hashed_requirements_are_the_constraints() -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    hashed = [line for line in (ROOT / "requirements-hashed.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line.partition(" ")[0] for line in hashed] == pinned
    assert all(re.fullmatch(r"\S+ --hash=sha256:[0-9a-f]{64}", line) for line in hashed)
