"""Opening the models that are analysed: the pipeline's teacher, or a timm model with weights of its own."""

from typing import Any

from torch import nn

from stages.core.base.errors import UserError
from stages.core.base.files import read_json, sha256
from stages.core.base.names import TEACHER
from stages.core.config import params, schema
from stages.core.models import folders, pretrained
from stages.core.runtime import machine
from stages.paths import MANIFEST, TEACH

SEED = 0  # of random weights


def open_model(name: str, analysis: schema.Analysis) -> tuple[nn.Module, dict[str, Any]]:
    """A model, and its provenance: architecture, weights, and where they come from.

    Args:
        name: of a backbone, or the teacher's.
        analysis: the section of params.
    """
    if name == TEACHER:
        weights = {"sha256": sha256(TEACH / "model.safetensors")}
        return folders.load(TEACH), folders.provenance(TEACH) | weights
    img_size = analysis.img_size.get(name)
    if analysis.weights == "random":
        model, provenance = pretrained.random(name, {}, seed=SEED, img_size=img_size)
    else:
        model, provenance = pretrained.pretrained(name, {}, folder=machine.weights(), img_size=img_size)
    return model, provenance.record()


def open_classifier(name: str, settings: params.Params) -> tuple[nn.Module, dict[str, Any]]:
    """A model that names the dataset's classes, and its provenance; as `open_model`.

    Raises:
        UserError: its head has another number of outputs, or the images are called imagenet and their classes are not
            in its order.
    """
    data = settings.dataset
    model, provenance = open_model(name, settings.analysis)
    if model.num_classes != data.classes:
        raise UserError(
            f"analysis.classifiers: the head of {name} has {model.num_classes} outputs, but dataset.classes is "
            f"{data.classes}; leave it out"
        )
    if name != TEACHER and data.label == "imagenet" and provenance["weights"] == "pretrained":
        pretrained.check_imagenet_order(read_json(MANIFEST)["class_names"])
    return model, provenance
