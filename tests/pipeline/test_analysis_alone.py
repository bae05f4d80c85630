"""Backbones alone: no teacher, no student, no training images; one backbone's weights are missing."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import pandas as pd
import pytest
import timm
import torch
from bs4 import BeautifulSoup
from faults.project import Project
from timm.models import save_for_hf

pytestmark = pytest.mark.pipeline

VIT, CONVNEXT, MISSING = "test_vit.r160_in1k", "test_convnext.r160_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
IN_ONE_PROCESS = str(Path(__file__).with_name("in_one_process.py"))
PARAMETERS = (
    *("experiment=analysis", "dataset=folder", "dataset.classes=3", "dataset.image_size=32"),
    *(f"analysis.backbones=[{VIT},{MISSING},{CONVNEXT}]", f"analysis.classifiers=[{VIT},{MISSING}]"),
    *(f"analysis.layerwise=[{CONVNEXT}]", "analysis.images_per_class=2", "analysis.truncation.points=4"),
    *("analysis.sep.permutations=20", "analysis.sep.resamples=20", "analysis.pca.gaussian_tokens=100"),
)
STAGES = {
    *("check", "watch", "prepare", "weights", "extract", "svd", "pca", "sep", "rotation", "truncation", "dynamics"),
    *("cost", "summarize", "audit", "report"),
}
OF_TRAINING = (
    "teacher.json",
    "runs.csv",
    "comparison.csv",
    "differences.csv",
    "questions.csv",
    "curves.csv",
    "cka.csv",
)


@pytest.fixture
def project(tmp_path: Path, make_split: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy whose images are of three classes, with weights of two small models for them."""
    make_split(tmp_path / "data/val", images=2)
    torch.manual_seed(0)
    for name, arguments in ((VIT, {"img_size": 32}), (CONVNEXT, {})):
        config = {"input_size": (3, 32, 32), "crop_pct": 1.0}
        model = timm.create_model(name, num_classes=3, pretrained_cfg_overlay=config, **arguments)
        save_for_hf(model, str(tmp_path / "weights" / name), model_args=arguments, safe_serialization=True)
    machine = {"DATA_ROOT": str(tmp_path / "data"), "WEIGHTS": str(tmp_path / "weights"), "WORKERS": "0"}
    made = Project(tmp_path / "project", PARAMETERS, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"), **machine)
    made.copy()
    return made


@pytest.mark.parametrize(
    "command",
    [(sys.executable, IN_ONE_PROCESS, "report"), pytest.param(("dvc", "repro"), marks=pytest.mark.nightly)],
    ids=["in one process", "dvc repro"],
)
def test_backbones_are_analysed_without_anything_trained(
    project: Project, command: tuple[str, ...], tmp_path: Path
) -> None:
    ended = project.start(*command)
    assert ended.finish() == 1 if command[0] != "dvc" else ended.finish() != 0
    said = ended.line("error: ")
    assert said.startswith(f"error: not analysed, for want of weights: {MISSING}; all else is, and reports/results/wei")
    assert ended.line(f"weights: no weights for {MISSING} ").endswith(f"{MISSING}.safetensors")
    commands = [words.split()[2:] for _, words in ended.lines if "python -m stages." in words[:19]]
    run = {module.removeprefix("stages.") for module, *_ in commands}
    analyses = {words[1] for words in commands if words[0] == "stages.analyse"}
    assert (run - {"analyse"}) | analyses == STAGES

    reports = project.folder / "reports"
    results = {path.name: path for path in (reports / "results").iterdir()}
    assert not set(OF_TRAINING) & set(results)
    for name in ("svd", "pca", "sep", "rotation"):
        found = json.loads(results[f"{name}.json"].read_text())
        assert {key: (of["images"], of["weights"]) for key, of in found.items()} == {
            VIT: (6, "pretrained"),
            CONVNEXT: (6, "pretrained"),
        }
    assert {key: len(of["blocks"]) > 1 for key, of in json.loads(results["svd.json"].read_text()).items()} == {
        VIT: False,
        CONVNEXT: True,
    }
    truncation = json.loads(results["truncation.json"].read_text())
    assert set(truncation) == {VIT} and truncation[VIT]["channels"] == 64
    assert set(pd.read_csv(results["blocks.csv"])["run"]) == {VIT}
    weights = json.loads(results["weights.json"].read_text())
    assert weights[MISSING]["missing"].endswith(f"put it at WEIGHTS/{MISSING}.safetensors")  # no folder of this machine
    of_vit = (tmp_path / "weights" / VIT / "model.safetensors").read_bytes()
    assert weights[VIT]["source"] == f"WEIGHTS/{VIT}/model.safetensors"
    assert weights[VIT]["sha256"] == hashlib.sha256(of_vit).hexdigest()
    audit = json.loads((reports / "audit.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in audit["claims"] if claim["scale"] != "any run"}
    assert set(verdicts.values()) == {"not measured"}

    drawn = {path.stem for path in (reports / "figures").iterdir()}
    kinds = ("histogram", "ranks", "rotation", "sep", "sep_gap", "captured", "pca_spectrum", "token_spread")
    assert drawn == {
        *(f"{name}-{kind}" for name in (VIT, CONVNEXT) for kind in (*kinds, "svd_and_pca", "svd_vs_pca")),
        *(f"{CONVNEXT}-blocks", f"{CONVNEXT}-stages", f"{VIT}-truncation"),
        *("backbones", "dynamics_backbones", "permutation", "sep_backbones"),
    }
    assert {path.name for path in (reports / "notebooks").iterdir()} == {"audit.ipynb", "representation.ipynb"}
    pages = {
        path.stem: BeautifulSoup(path.read_text(), "html.parser")
        for path in (project.folder / "artifacts/html").iterdir()
    }
    assert set(pages) == {"index", "representation", "audit"}
    for page in pages.values():
        targets = [urlparse(link["href"]) for link in page.find_all("a")]
        for target in (target for target in targets if not target.scheme):
            file = project.folder / "artifacts/html" / target.path
            assert not target.path or file.resolve().is_file(), target
            assert not target.fragment or (pages[file.stem] if target.path else page).find(id=target.fragment), target
        for heading in page.main.find_all(["h2", "h3"]):
            following = heading.find_next_sibling()
            assert following is not None and following.name not in ("h2", "h3"), heading
    assert MISSING in pages["index"].main.get_text() and not pages["index"].find(id="students")
    assert not pages["representation"].find(id="figure-dynamics")


def test_weights_that_are_brought_later_are_analysed(project: Project, tmp_path: Path) -> None:
    """And no other backbone is extracted again; nothing of it is kept from the run before."""
    project.compose(f"analysis.backbones=[{VIT},{CONVNEXT}]")
    (tmp_path / "weights" / CONVNEXT).rename(tmp_path / CONVNEXT)
    target = f"sep@{VIT}", f"sep@{CONVNEXT}"
    project.run("dvc", "repro", *target)
    missing = project.folder / "artifacts/sep" / CONVNEXT / "missing.json"
    assert missing.is_file()
    assert project.rerun(*target) == {"watch@images", "weights@timm"}
    (tmp_path / CONVNEXT).rename(tmp_path / "weights" / CONVNEXT)
    again = {"watch@images", "weights@timm", f"extract@{CONVNEXT}", f"sep@{CONVNEXT}"}
    assert project.rerun(*target) == again and not missing.exists()
