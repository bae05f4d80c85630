"""The models that a recorded study carries, one of each setting in bfloat16, and whether they answer as its runs did.

Half the bytes, and each weight within 0.4 % of the one that was evaluated: an image whose two best classes nearly tie
may be classified otherwise.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stages import messages
from stages.core.base.errors import UserError
from stages.core.base.files import read_json, read_yaml
from stages.core.base.names import Run
from stages.core.config.schema import Dataset
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import embedded_images, source, survey, unavailable
from stages.core.data.image_list import ImageList
from stages.core.evidence.predictions import Predictions
from stages.core.evidence.studies import Study
from stages.core.models import folders
from stages.core.runtime import machine
from stages.core.train.evaluation import on_device

LIMIT_BYTES = 20 * 2**20  # of a whole study that git tracks
WEIGHTS = "model.safetensors"
COPIED = ("config.json", "metrics.json")
CARD = "README.md"
# So much of the images must be classified as in full precision, and no other run may be nearer. Rounding changes one
# image in 900 of the default's students at most, and two seeds of one setting agree on 97 % or less. Of weak students,
# whose two largest logits are nearly equal more often, more images may change.
AGREEMENT = 0.97
BATCH = 256


def kept(runs: Mapping[str, Path]) -> dict[str, str]:
    """The run of the first seed of each setting, by the setting's name.

    Args:
        runs: the folders of all runs, by name.
    """
    named = sorted((Run.named(name) for name in runs), key=lambda run: run.seed)
    return {run.setting: run.name for run in reversed(named)}


def too_large(runs: Mapping[str, Path], study: Path) -> bool:
    """Whether a study would exceed `LIMIT_BYTES` with its models.

    Args:
        runs: the folders of all runs, by name.
        study: its folder, with all but the models.
    """
    there = sum(path.stat().st_size for path in study.rglob("*") if path.is_file())
    models = sum((runs[name] / WEIGHTS).stat().st_size for name in kept(runs).values())
    return there + models // 2 > LIMIT_BYTES


def write(runs: Mapping[str, Path], out: Path) -> None:
    """Write one model of each setting, of its first seed, with its card: a folder SETTING that timm opens.

    Args:
        runs: the folders of all runs, by name.
        out: a new folder.
    """
    for setting, name in sorted(kept(runs).items()):
        folder = out / setting
        folder.mkdir(parents=True)
        weights = {
            key: value.to(torch.bfloat16) if value.is_floating_point() else value
            for key, value in load_file(runs[name] / WEIGHTS).items()
        }
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        for file in COPIED:
            shutil.copyfile(runs[name] / file, folder / file)
        card = (runs[name] / CARD).read_text(encoding="utf-8")
        (folder / CARD).write_text(
            f"{card}\nThese weights are those of `{name}`, rounded to bfloat16; the figures are of full precision.\n",
            encoding="utf-8",
        )


def evaluate(study: Study, answers: Predictions, prepared: Path) -> Iterator[str]:
    """Evaluate each model of a study on its validation images, and compare what it answers with its predictions.

    Args:
        study: with models.
        answers: its predictions.
        prepared: where `prepare` writes the embedded images.

    Yields:
        What was found of each model, in words.

    Raises:
        UserError: the images are out of reach or are others, or a model does not answer as its run did.
    """
    images = validation_images(study, prepared)
    runs = kept(dict.fromkeys(answers.classes, study.folder))
    for folder in sorted(study.models.iterdir()):
        model = folders.load(folder).to(machine.device())
        batches = evaluation_batches(images, model, batch=BATCH, workers=machine.workers())
        with torch.no_grad():
            classes = [model(batch).argmax(1).cpu() for batch, _ in on_device(batches, machine.device())]
        agreed = shares(torch.cat(classes).numpy(), answers)
        own, nearest = agreed[runs[folder.name]], max(agreed, key=lambda run: agreed[run])
        if own < max(AGREEMENT, agreed[nearest]):
            raise UserError(
                f"{folder} classifies {own:.1%} of the images as its run {runs[folder.name]} did ({AGREEMENT:.0%} are "
                f"asked), and {agreed[nearest]:.1%} as {nearest}: it is another model"
            )
        yield f"{folder.name} classifies {own:.2%} as its run did"


def shares(classes: np.ndarray, answers: Predictions) -> dict[str, float]:
    """The share of images that each run classifies as a model does.

    Args:
        classes: that the model predicts, [images].
        answers: of the runs.
    """
    return {run: float((predicted == classes).mean()) for run, predicted in answers.classes.items()}


def out_of_reach(study: Study, prepared: Path) -> str | None:
    """Why this machine cannot evaluate a study's models, or None if it can."""
    data = dataset(study)
    if data.reader == "digits" and not embedded_images(prepared).is_dir():
        return "the embedded images are not written out; run `dvc repro prepare`"
    return unavailable(data)


def dataset(study: Study) -> Dataset:
    """The dataset section of a study's parameters."""
    return Dataset.model_validate(read_yaml(study.folder / "params.yaml")["dataset"])


def validation_images(study: Study, prepared: Path) -> ImageList:
    """The validation images of a study.

    Raises:
        UserError: they are out of reach, or are not those that the study was recorded with.
    """
    data = dataset(study)
    if data.held_out is None:
        data = data.model_copy(update={"train_split": None})  # which need not be here
    messages.begin("record", f"lists the validation images of {data.label}")
    splits, manifest = survey(data, prepared)
    recorded = read_json(study.data)
    if manifest["val"]["sha256"] != recorded["val"]["sha256"]:
        raise UserError(f"the images here are not those of {study.folder} (see its data.json); set DATA_ROOT to those")
    split = data.val_split if data.held_out is None else str(data.train_split)
    return source(data, prepared).open(split, list(splits["val"].files), recorded["class_names"])
