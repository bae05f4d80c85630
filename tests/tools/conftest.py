"""A project of two seeds in which jobs train."""

import sys

import pytest
import yaml

TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3}
ENVIRONMENT = {"DEVICE": "cpu", "WORKERS": "0", "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def run_stage(monkeypatch):
    """Run a stage in this process."""

    def execute(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        main()

    return execute


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A project of two seeds and four students, of two steps each, with a file for a teacher; this process is there."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["dataset"]["val_images"], content["analysis"]["images_per_class"] = 20, 1
    content["teacher"] |= {"weights": "random", "recipe": None}
    content["teacher"]["model_args"]["depth"] = 2
    content["student"]["base"] |= TINY
    content["recipe"] |= {"epochs": 1, "epoch_steps": 2, "global_batch": 8, "warmup_epochs": 0}
    content["strategy"]["names"], content["objective"]["names"] = ["baseline", "lift"], ["mse"]
    block = {"strategies": ["baseline", "lift"], "objectives": ["mse"], "seeds": [0, 1]}
    runs = {str(seed): [f"{strategy}-mse-{seed}" for strategy in block["strategies"]] for seed in (0, 1)}
    content["grid"] = {"blocks": [block], "runs": runs}
    folder = tmp_path / "project"
    (folder / "artifacts/teach").mkdir(parents=True)
    (folder / "artifacts/teach/model.safetensors").touch()
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, value in {**ENVIRONMENT, "PYTHONPATH": str(root)}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def ready(project, run_stage):
    """The project with images and a random teacher."""
    from stages import prepare, teach

    run_stage(prepare.main)
    run_stage(teach.main)
    return project


@pytest.fixture
def students():
    """Read every file of the students in a project."""

    def read(folder):
        files = (path for path in (folder / "artifacts/train").rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read
