"""The real pipeline, in a temporary clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline

SMALL = ("recipe.epochs=2", "teacher.recipe.epochs=2", "analysis.images_per_class=2", "seeds=[0]")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "project"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout
    for name in files.decode().split("\0"):
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(folder),
    }
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def test_every_stage_runs_and_reruns_only_for_cause(clone: Path) -> None:
    run(clone, "python", "-m", "stages.compose", *SMALL)
    run(clone, "dvc", "repro")
    metrics = json.loads((clone / "reports/metrics.json").read_text())
    assert set(metrics["top1"]) == {"teacher", "baseline", "lift", "widen"}
    assert set(metrics["feature_error"]["widen"]) == {"none", "mse"}
    audit = json.loads((clone / "reports/audit.json").read_text())
    contradicted = [claim["id"] for claim in audit["claims"] if claim["verdict"] == "contradicted"]
    assert contradicted == ["cost_params/widen/params", "consistent_parameters/widen/params"]
    shown = run(clone, "dvc", "metrics", "show", "--json", "reports/audit.json")
    assert json.loads(shown.stdout)[""]["data"]["reports/audit.json"]["data"] == {"counts": audit["counts"]}
    assert sum(audit["counts"].values()) == len(audit["claims"])
    for page in ("index", "representation", "distillation", "audit"):
        html = (clone / f"artifacts/html/{page}.html").read_text()
        assert 'src="http' not in html and 'href="http' not in html.replace('href="https://arxiv.org', "")

    assert running(clone) == {"prepare"}
    run(clone, "python", "-m", "stages.compose", *SMALL, "analysis.sep.permutations=20")
    assert running(clone) == {"check", "prepare", "sep@teacher", "summarize", "audit", "report"}
    run(clone, "python", "-m", "stages.compose", *SMALL, "strategy=lift")
    assert running(clone) == {"check", "prepare", "sep@teacher", "summarize", "audit", "report"}
    assert sorted(path.name for path in (clone / "artifacts/train").iterdir()) == [
        "lift-mse-0",
        "lift-none-0",
    ]


def running(clone: Path) -> set[str]:
    """The stages that a `dvc repro` runs or takes from its cache of runs."""
    lines = run(clone, "dvc", "repro").stdout.splitlines()
    named = {line.split("'")[1] for line in lines if line.startswith(("Running stage", "Stage"))}
    return named - {line.split("'")[1] for line in lines if "didn't change" in line}


def test_wrong_parameters_end_in_one_line(clone: Path) -> None:
    (clone / "params.yaml").write_text((clone / "params.yaml").read_text().replace("epochs: 2", "epochs: two", 1))
    result = run(clone, "dvc", "repro", check=False)
    assert result.returncode != 0
    assert "recipe.epochs" in result.stderr and "Traceback" not in result.stderr
