"""The paper's scale, run dry: the paper's models at 224², random weights, a few generated photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
from faults.project import Project
from PIL import Image

pytestmark = pytest.mark.pipeline

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
DRY_RUN = ("profile=imagenet", "experiment=dry_run", "strategy=widen", "objective.names=[none,softkd_spectral]")
DRY_RUN = (
    *DRY_RUN,
    "recipe.global_batch=8",
    f"dataset.classes={len(CLASSES)}",
    f"analysis.backbones=[teacher,{DINOV2}]",
)
DRY_RUN = (*DRY_RUN, f"++analysis.img_size={{{DINOV2}: 224}}")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A generated tree of 64 JPEGs of odd sizes: colour, grey, CMYK, some with a broken EXIF."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 12), ("val", 4)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(images):
                mode = ("RGB", "RGB", "L", "CMYK")[index % 4]
                width, height = (int(side) for side in rng.integers(60, 500, 2))
                pixels = rng.integers(0, 256, (height // 8, width // 8, len(Image.new(mode, (1, 1)).getbands())))
                image = Image.merge(
                    mode, [Image.fromarray(band) for band in np.moveaxis(pixels.astype(np.uint8), 2, 0)]
                )
                options = {"exif": b"Exif\0\0MM\0*broken"} if index == 5 else {}
                image.resize((width, height)).save(tmp_path / split / name / f"{index}.JPEG", **options)
    return tmp_path


def test_the_papers_scale_runs_dry(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> None:
    folder = tmp_path_factory.mktemp("dry_run") / "project"
    machine = {"DATA_ROOT": str(photographs), "DEVICE_BATCH": "4", "HF_HUB_OFFLINE": "1", "CHECKPOINT_MINUTES": "10"}
    project = Project(folder, DRY_RUN, **machine)
    project.copy()
    project.run("dvc", "repro")
    outputs = ["artifacts/teach/model.safetensors", "artifacts/train/widen-softkd_spectral-0/ema/model.safetensors"]
    outputs += ["reports/audit.json", "artifacts/html/index.html", "artifacts/extract/teacher/layer_23.npy"]
    for name in outputs:
        assert (folder / name).is_file(), name
    for objective in ("none", "softkd_spectral"):
        trained = json.loads((folder / f"artifacts/train/widen-{objective}-0/metrics.json").read_text())
        assert (trained["parameters"], trained["teacher_weights"]) == (7_313_896 - 996 * 385, "random")
    results = {
        name: json.loads((folder / f"reports/results/{name}.json").read_text()) for name in ("svd", "pca", "sep")
    }
    for found in results.values():
        assert {of["weights"] for of in found.values()} == {"random"}
        shapes = {name: (of["images"], of["tokens"], of["channels"]) for name, of in found.items()}
        assert shapes == {"teacher": (4, 196, 384), DINOV2: (4, 256, 384)}
    audit = json.loads((folder / "reports/audit.json").read_text())
    assert {claim["verdict"] for claim in audit["claims"] if claim["scale"] != "any run"} == {"not measured"}
    assert project.rerun() == {"watch@images"}
