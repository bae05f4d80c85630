"""Models that a study carries, in bfloat16, evaluated again on its images."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stages.core.base.errors import UserError
from stages.core.config.schema import Dataset
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import source, survey
from stages.core.evidence.predictions import Predictions
from stages.core.evidence.studies import Study
from stages.core.models import folders
from stages.tools import study_models
from stages.tools.compose import composed

RUNS = ("widen-mse-1", "widen-mse-0", "baseline-none-0")


@pytest.fixture
def dataset(tree, make_split, monkeypatch):
    """Two hundred and one random images of three classes at DATA_ROOT."""
    shutil.rmtree(tree / "val")
    make_split(tree / "val", images=67)
    monkeypatch.setenv("DATA_ROOT", str(tree))
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("DEVICE", "cpu")
    params = yaml.safe_load(composed("dataset=folder", "dataset.classes=3", "dataset.image_size=8"))
    return Dataset.model_validate(params["dataset"] | {"crop_pct": 1.0})


@pytest.fixture
def runs(tmp_path, make_student):
    """The folders of three students that nobody trained."""
    found = {}
    for seed, name in enumerate(RUNS):
        found[name] = tmp_path / "train" / name
        model = make_student(name.partition("-")[0], num_classes=3)
        torch.manual_seed(seed)
        for weight in model.parameters():  # far from its initial values: margins between logits
            torch.nn.init.normal_(weight, std=0.3)
        found[name].mkdir(parents=True)
        folders.save(model, found[name], {"weights": "fit"})
        (found[name] / "metrics.json").write_text("{}")
        (found[name] / "README.md").write_text(f"# {name}\n")
    return found


@pytest.fixture
def study(dataset, runs, tmp_path):
    """A study of them with its predictions."""
    folder = tmp_path / "studies/first"
    folder.mkdir(parents=True)
    splits, manifest = survey(dataset, tmp_path)
    (folder / "data.json").write_text(json.dumps(manifest))
    (folder / "params.yaml").write_text(yaml.safe_dump({"dataset": dataset.model_dump()}))
    (folder / "results").mkdir()
    (folder / "results/runs.csv").touch()
    study_models.write(runs, folder / "models")
    images = source(dataset, tmp_path).open("val", list(splits["val"].files), splits["val"].classes)
    classes = {}
    for name, path in runs.items():
        model = folders.load(path)
        batches = evaluation_batches(images, model, batch=32, workers=0)
        with torch.no_grad():
            classes[name] = torch.cat([model(batch).argmax(1) for batch, _ in batches]).numpy()
    return Study("first", folder, {}), Predictions(np.array(images.labels), classes)


def test_one_model_of_each_setting_is_kept_in_half_the_bytes(study, runs):
    kept, _ = study
    assert sorted(path.name for path in kept.models.iterdir()) == ["baseline-none", "widen-mse"]
    assert study_models.kept(runs) == {"widen-mse": "widen-mse-0", "baseline-none": "baseline-none-0"}
    before = load_file(runs["widen-mse-0"] / "model.safetensors")
    after = load_file(kept.models / "widen-mse/model.safetensors")
    assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {torch.bfloat16}
    for name, value in before.items():
        torch.testing.assert_close(after[name].float(), value, rtol=2**-8, atol=0)
    places = (kept.models / "widen-mse", runs["widen-mse-0"])
    half, full = ((folder / "model.safetensors").stat().st_size for folder in places)
    assert half < 0.6 * full
    assert "rounded to bfloat16" in (kept.models / "widen-mse/README.md").read_text()


def test_they_answer_as_their_runs_did(study, tmp_path):
    kept, answers = study
    assert len({tuple(classes) for classes in answers.classes.values()}) == 3
    said = list(study_models.evaluate(kept, answers, tmp_path))
    assert [line.partition(" ")[0] for line in said] == ["baseline-none", "widen-mse"]


def test_another_model_or_other_images_are_noticed(study, runs, tmp_path, tree, make_split, monkeypatch):
    kept, answers = study
    other = load_file(runs["widen-mse-1"] / "model.safetensors")
    save_file(other, kept.models / "widen-mse/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"widen-mse classifies .* of the images as its run widen-mse-0 did"):
        list(study_models.evaluate(kept, answers, tmp_path))
    content = (runs["widen-mse-1"] / "model.safetensors").read_bytes()
    (kept.models / "baseline-none/model.safetensors").write_bytes(content[:1000])
    with pytest.raises(UserError, match="baseline-none is not a model that timm can open") as caught:
        list(study_models.evaluate(kept, answers, tmp_path))
    assert "\n" not in str(caught.value)
    (tree / "val/ant/000.png").unlink()
    with pytest.raises(UserError, match=r"the images here are not those of .*first .*; set DATA_ROOT to those"):
        list(study_models.evaluate(kept, answers, tmp_path))
    assert study_models.out_of_reach(kept, tmp_path) is None
    monkeypatch.delenv("DATA_ROOT")
    assert study_models.out_of_reach(kept, tmp_path).startswith("DATA_ROOT is not set")
