"""The paper's scale, run dry: the paper's models at 224², random weights, a few generated photographs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from faults.project import Project
from PIL import Image

pytestmark = pytest.mark.pipeline

CLASSES = ("n01440764", "n01443537")
DINOV2, SWIN = "vit_small_patch14_dinov2.lvd142m", "swin_tiny_patch4_window7_224"
SHAPES = {"teacher": (2, 196, 384), DINOV2: (2, 256, 384), SWIN: (2, 49, 768)}  # images, tokens, channels
IN_ONE_PROCESS = str(Path(__file__).with_name("in_one_process.py"))
REPRO = ("dvc", "repro")
EVERY_OBJECTIVE = ("none", "mse", "spectral", "softkd", "softkd_mse", "softkd_spectral")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A generated tree of 14 JPEGs of odd sizes: colour, grey, CMYK, some with a broken EXIF."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 6), ("val", 1)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(images):
                mode, bands = (("RGB", 3), ("RGB", 3), ("L", 1), ("CMYK", 4))[index % 4]
                width, height = (int(side) for side in rng.integers(60, 500, 2))
                pixels = rng.integers(0, 256, (bands, height // 8, width // 8), dtype=np.uint8)
                image = Image.merge(mode, [Image.fromarray(band) for band in pixels])
                options = {"exif": b"Exif\0\0MM\0*broken"} if index == 5 else {}
                image.resize((width, height)).save(tmp_path / split / name / f"{index}.JPEG", **options)
    return tmp_path


@pytest.mark.parametrize(
    ("objectives", "backbone", "precision", "command"),
    [
        (("softkd_spectral",), DINOV2, "float32", (sys.executable, IN_ONE_PROCESS, "audit")),
        pytest.param(EVERY_OBJECTIVE, SWIN, "bfloat16", REPRO, marks=pytest.mark.nightly),
    ],
    ids=["one objective", "every objective"],
)
def test_the_papers_scale_runs_dry(
    tmp_path_factory: pytest.TempPathFactory,
    photographs: Path,
    objectives: tuple[str, ...],
    backbone: str,
    precision: str,
    command: tuple[str, ...],
) -> None:
    """Every stage up to the audit, in one process; by `dvc repro`, to the report and in bfloat16, nightly only."""
    folder = tmp_path_factory.mktemp("dry_run") / "project"
    parameters = (
        *("profile=imagenet", "experiment=dry_run", "strategy=widen", "recipe.global_batch=4"),
        *(f"objective.names=[{','.join(objectives)}]", f"dataset.classes={len(CLASSES)}"),
        *(f"analysis.backbones=[teacher,{backbone}]", f"++analysis.img_size={{{DINOV2}: 224}}"),
        *("analysis.truncation.points=2", f"recipe.precision={precision}"),
    )
    machine = {"DATA_ROOT": str(photographs), "DEVICE_BATCH": "2", "HF_HUB_OFFLINE": "1", "CHECKPOINT_MINUTES": "10"}
    if command != REPRO:
        machine["WORKERS"] = "0"  # loading processes take a third of the time
    project = Project(folder, parameters, **machine)
    project.copy()
    project.run(*command)
    assert (folder / "artifacts/extract/teacher/layer_23.npy").is_file()
    for objective in objectives:
        run = folder / f"artifacts/train/0/widen-{objective}-0"
        trained = json.loads((run / "metrics.json").read_text())
        assert (trained["parameters"], trained["teacher_weights"]) == (
            7_313_896 - (1000 - len(CLASSES)) * 385,
            "random",
        )
        assert (run / "ema/model.safetensors").is_file(), objective
    for name in ("svd", "pca", "sep"):
        found = json.loads((folder / f"reports/results/{name}.json").read_text())
        assert {of["weights"] for of in found.values()} == {"random"}
        shapes = {name: (of["images"], of["tokens"], of["channels"]) for name, of in found.items()}
        assert shapes == {name: SHAPES[name] for name in ("teacher", backbone)}
    audit = json.loads((folder / "reports/audit.json").read_text())
    assert {claim["verdict"] for claim in audit["claims"] if claim["scale"] != "any run"} == {"not measured"}
    if command == REPRO:
        assert (folder / "artifacts/html/index.html").is_file()
        assert project.rerun() == {"watch@images"}
