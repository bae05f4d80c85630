"""A saved model's card: what the Hub reads of it, and that its instructions hold."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from stages.core.models import folders
from stages.core.models.cards import write_card

STUDENT = {
    "strategy": "lift",
    "objective": "mse",
    "seed": 1,
    "teacher_weights": "fit",
    "architecture": "deit_tiny_lift_patch16_224",
    "top1": 97.111,
    "parameters": 176890,
    "lr": 3e-3,
}
TEACHER = {"architecture": "cait_s24_224", "weights": "fit", "top1": 96.4, "parameters": 5}


def card(folder, name="lift-mse-1", metrics=STUDENT, command="dvc repro train@lift-mse-1", **dataset):
    write_card(folder, name=name, command=command, metrics=metrics, **({"dataset": "digits"} | dataset))
    return ModelCard.load(folder / "README.md")


def test_the_hub_reads_library_licence_and_result(tmp_path):
    made = card(tmp_path)
    assert made.data.library_name == "timm" and made.data.license == "apache-2.0" and made.data.datasets is None
    assert {"image-classification", "knowledge-distillation"} <= set(made.data.tags)
    (result,) = made.data.eval_results
    found = (result.task_type, result.dataset_name, result.metric_type, result.metric_value)
    assert found == ("image-classification", "digits", "accuracy", 97.11)
    assert "strategy `lift`, objective `mse`, seed 1, under a teacher with fit weights" in made.text
    assert "dvc repro train@lift-mse-1" in made.text and "| parameters | 176,890 |" in made.text


@pytest.mark.parametrize(
    ("weights", "licence", "said"),
    [
        ("fit", "apache-2.0", "A teacher, fitted to the labels."),
        ("finetune", "apache-2.0", "A teacher with pretrained weights, fitted to the labels."),
        ("random", "apache-2.0", "A teacher with random weights, for dry runs."),
        ("pretrained", "apache-2.0", "A teacher with timm's pretrained weights."),
    ],
)
def test_a_teachers_card_says_whose_weights_they_are(tmp_path, weights, licence, said):
    made = card(tmp_path, name="teach", metrics=TEACHER | {"weights": weights}, command="dvc repro teach")
    assert said in made.text and made.data.license == licence and "teacher" in made.data.tags


@pytest.mark.parametrize("weights", ["pretrained", "finetune"])
def test_pretrained_weights_keep_their_own_licence(tmp_path, weights):
    metrics = TEACHER | {"weights": weights, "architecture": "vit_base_patch16_224.mae"}
    assert card(tmp_path, metrics=metrics).data.license == "cc-by-nc-4.0"


def test_a_dataset_of_the_hub_is_named_as_there(tmp_path):
    made = card(tmp_path, dataset="birds", hub_dataset="owner/birds")
    assert made.data.datasets == ["owner/birds"] and made.data.eval_results[0].dataset_type == "owner/birds"


@pytest.mark.parametrize("architecture", ["deit_tiny_lift_patch16_224", "deit_tiny_patch16_224"])
def test_the_code_of_the_card_opens_the_model(tmp_path, architecture):
    arguments = {"img_size": 8, "patch_size": 2, "embed_dim": 24, "depth": 1, "num_heads": 2}
    arguments |= {"lift_width": 48} if "lift" in architecture else {}
    norm = {"mean": [0.5] * 3, "std": [0.5] * 3}
    model = folders.create(
        architecture, arguments, classes=10, seed=0, image_size=8, crop_pct=1.0, interpolation="bicubic", **norm
    )
    folders.save(model, tmp_path, {})
    made = card(tmp_path, metrics=STUDENT | {"architecture": architecture})
    code = re.search(r"```python\n(.*?)```", made.text, re.DOTALL)[1]
    assert ("stages.core.models.students" in code) == ("lift" in architecture)
    scope = {}
    exec(code.replace("FOLDER", str(tmp_path)), scope)
    assert scope["model"].state_dict().keys() == model.state_dict().keys()
    assert yaml.safe_load(made.content.split("---")[1])["library_name"] == "timm"
