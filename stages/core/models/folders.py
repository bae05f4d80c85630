"""timm models: created by name, saved to and loaded from folders that `timm.create_model("local-dir:…")` opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.models import students  # noqa: F401  registers the students with timm
from stages.core.models.talking_heads import batch_talking_heads

EPOCHS = "epochs"  # the folder, within a run's, of the models that were kept during training


def create(
    architecture: str,
    arguments: dict[str, Any],
    *,
    classes: int,
    seed: int,
    image_size: int,
    crop_pct: float,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    position_std: float | None = None,
) -> nn.Module:
    """Create a timm model with random weights whose configuration holds its evaluation transform.

    Args:
        architecture: a timm name.
        arguments: of the architecture.
        classes: number of the head's outputs.
        seed: of the weights.
        image_size, crop_pct, interpolation, mean, std: the model's data configuration.
        position_std: standard deviation of the initial position embedding; None keeps timm's 0.02. A model that has
            none, such as a convolutional network, is left as it is.

    Raises:
        UserError: timm has no such architecture, or it does not take the arguments.
    """
    config = {
        "input_size": (3, image_size, image_size),
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "mean": tuple(mean),
        "std": tuple(std),
        "num_classes": classes,
    }
    torch.manual_seed(seed)
    try:
        model = timm.create_model(architecture, num_classes=classes, pretrained_cfg_overlay=config, **arguments)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        hint = "; null in model_args leaves an argument of student.base out" if isinstance(error, TypeError) else ""
        raise UserError(f"timm cannot make {architecture} with {arguments}: {error}{hint}") from None
    batch_talking_heads(model)
    embedding = getattr(model, "pos_embed", None)
    if position_std is not None and isinstance(embedding, nn.Parameter):
        nn.init.trunc_normal_(embedding, std=position_std, a=-2 * position_std, b=2 * position_std)
    return model


def module_of(architecture: str) -> str:
    """The module that defines a timm architecture; "" if there is none of that name."""
    name = architecture.partition(".")[0]
    return str(timm.models.model_entrypoint(name).__module__) if timm.models.is_model(name) else ""


def save(model: nn.Module, folder: Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write config.json and model.safetensors, from which `load` and timm create the same model.

    `provenance` is stored in config.json; timm ignores it.
    """
    config = None if provenance is None else {"provenance": dict(provenance)}
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True)


def provenance(folder: Path) -> dict[str, Any]:
    """The provenance that `save` stored.

    Raises:
        UserError: the folder is missing or was not written by `save`.
    """
    config = read_json(folder / "config.json")
    if "provenance" not in config:
        raise UserError(f"{folder / 'config.json'} has no provenance of its weights; run `dvc repro` to make it")
    return config["provenance"]


def kept_epochs(folder: Path) -> dict[int, Path]:
    """The models that a training kept, by the number of epochs after which, rising; each is a folder for `load`.

    Args:
        folder: a run's output, or the folder of its checkpoints.
    """
    return {int(path.name): path for path in sorted((folder / EPOCHS).glob("[0-9]*"))}


def epoch_folder(folder: Path, epochs: int) -> Path:
    """Where in `folder` the model after so many epochs is kept; names sort as numbers do."""
    return folder / EPOCHS / f"{epochs:05d}"


def load(folder: Path) -> nn.Module:
    """Open a folder written by `save`, in evaluation mode.

    Raises:
        UserError: the folder is missing or does not hold such a model.
    """
    read_json(folder / "config.json")
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (OSError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder} is not a model that timm can open ({error}); run `dvc repro` to make it") from None
    batch_talking_heads(model)
    return model.eval()
