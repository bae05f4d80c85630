"""The real pipeline, in a temporary clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A generated tree of 240 JPEGs of odd sizes: colour, grey, CMYK, one with a broken EXIF."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 48), ("val", 12)):
        for name in ("n01440764", "n01443537", "n01484850", "n01491361"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(images):
                mode = ("RGB", "RGB", "L", "CMYK")[index % 4]
                width, height = (int(side) for side in rng.integers(60, 500, 2))
                pixels = rng.integers(
                    0, 256, (height // 8, width // 8, len(mode) if mode != "L" else 1), dtype=np.uint8
                )
                image = Image.merge(mode, [Image.fromarray(band) for band in np.moveaxis(pixels, 2, 0)])
                options = {"exif": b"Exif\0\0MM\0*broken"} if index == 5 else {}
                image.resize((width, height)).save(tmp_path / split / name / f"{index}.JPEG", **options)
    return tmp_path


NO_NETWORK = """
import socket
def refuse(method):
    def guarded(self, address, *arguments):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise OSError(f"no network here: {address}")
        return method(self, address, *arguments)
    return guarded
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse(getattr(socket.socket, name)))
def lookup(host, *arguments, found=socket.getaddrinfo, **options):
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        raise socket.gaierror(f"no network here: {host}")
    return found(host, *arguments, **options)
socket.getaddrinfo = lookup
"""


@pytest.fixture(scope="module")
def no_network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that, on PYTHONPATH, cuts every Python process off all but its own machine."""
    folder = tmp_path_factory.mktemp("guard")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return str(folder)


def run(folder: Path, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(folder),
        **variables,
    }
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def test_every_stage_runs_without_a_network_and_reruns_only_for_cause(clone: Path, no_network: str) -> None:
    run(clone, "python", "-m", "stages.tools.compose", *SMALL)
    cut_off = {"PYTHONPATH": os.pathsep.join([str(clone), no_network])}
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    assert "no network here" in run(clone, "python", "-c", reach, check=False, **cut_off).stderr
    run(clone, "dvc", "repro", **cut_off)
    metrics = json.loads((clone / "reports/metrics.json").read_text())
    assert set(metrics["top1"]) == {"teacher", "baseline", "lift", "widen"}
    assert set(metrics["probe_error"]["widen"]) == {"none", "mse"}
    audit = json.loads((clone / "reports/audit.json").read_text())
    contradicted = [claim["id"] for claim in audit["claims"] if claim["verdict"] == "contradicted"]
    assert contradicted == [
        "cost_params/widen/params",
        "consistent_parameters/widen/params",
        "consistent_distilled_baseline/top1/baseline",
    ]
    shown = run(clone, "dvc", "metrics", "show", "--json", "reports/audit.json")
    assert json.loads(shown.stdout)[""]["data"]["reports/audit.json"]["data"] == {"counts": audit["counts"]}
    assert sum(audit["counts"].values()) == len(audit["claims"])
    for page in ("index", "representation", "distillation", "audit"):
        html = (clone / f"artifacts/html/{page}.html").read_text()
        assert 'src="http' not in html and 'href="http' not in html.replace('href="https://arxiv.org', "")

    assert running(clone) == set()
    run(clone, "python", "-m", "stages.tools.compose", *SMALL, "analysis.sep.permutations=20")
    assert running(clone) == {"check", "sep@teacher", "encode", "summarize", "audit", "report"}
    run(clone, "python", "-m", "stages.tools.compose", *SMALL, "strategy=lift")
    assert running(clone) == {"check", "sep@teacher", "encode", "summarize", "audit", "report"}
    assert sorted(path.name for path in (clone / "artifacts/train").iterdir()) == [
        "lift-mse-0",
        "lift-none-0",
    ]


def test_the_papers_scale_runs_dry(clone: Path, photographs: Path) -> None:
    small = ("objective=softkd_mse", "strategy=widen", "recipe.global_batch=32", "dataset.classes=4")
    backbones = "analysis.backbones=[teacher,swin_tiny_patch4_window7_224,vit_small_patch14_dinov2.lvd142m]"
    size = "analysis.img_size={vit_small_patch14_dinov2.lvd142m: 224}"
    run(
        clone,
        "python",
        "-m",
        "stages.tools.compose",
        "profile=imagenet",
        "experiment=dry_run",
        *small,
        backbones,
        f"++{size}",
    )
    run(clone, "dvc", "repro", DATA_ROOT=str(photographs), DEVICE_BATCH="16", HF_HUB_OFFLINE="1")
    outputs = ["artifacts/teach/model.safetensors", "artifacts/train/widen-softkd_mse-0/ema/model.safetensors"]
    outputs += ["reports/audit.json", "artifacts/html/index.html", "artifacts/extract/teacher/layer_23.npy"]
    for name in outputs:
        assert (clone / name).is_file(), name
    trained = json.loads((clone / "artifacts/train/widen-softkd_mse-0/metrics.json").read_text())
    assert (trained["parameters"], trained["teacher_weights"]) == (7_313_896 - 996 * 385, "random")
    results = {name: json.loads((clone / f"reports/results/{name}.json").read_text()) for name in ("svd", "pca", "sep")}
    for found in results.values():
        assert {of["weights"] for of in found.values()} == {"random"}
        shapes = {name: (of["images"], of["tokens"], of["channels"]) for name, of in found.items()}
        assert shapes == {
            "teacher": (4, 196, 384),
            "swin_tiny_patch4_window7_224": (4, 49, 768),
            "vit_small_patch14_dinov2.lvd142m": (4, 256, 384),
        }
    audit = json.loads((clone / "reports/audit.json").read_text())
    assert {claim["verdict"] for claim in audit["claims"] if claim["scale"] != "any run"} == {"not measured"}
    assert running(clone, DATA_ROOT=str(photographs)) == {"watch@images"}


def running(clone: Path, **variables: str) -> set[str]:
    """The stages that a `dvc repro` runs or takes from its cache of runs."""
    lines = run(clone, "dvc", "repro", **variables).stdout.splitlines()
    named = {line.split("'")[1] for line in lines if line.startswith(("Running stage", "Stage"))}
    return named - {line.split("'")[1] for line in lines if "didn't change" in line}


def test_wrong_parameters_end_in_one_line(clone: Path) -> None:
    run(clone, "python", "-m", "stages.tools.compose", *SMALL)
    (clone / "params.yaml").write_text((clone / "params.yaml").read_text().replace("epochs: 2", "epochs: two", 1))
    result = run(clone, "dvc", "repro", check=False)
    assert result.returncode != 0
    assert "recipe.epochs" in result.stderr and "Traceback" not in result.stderr
