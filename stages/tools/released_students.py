"""The authors' released students: read from their checkpoints, told by their keys, and made as timm models.

Their files hold a state dict, bare or under the key `model`. Lift has a DeiT under `base_model.`, and beside it
`projections.N`, `layer_norms.N` (N: the last block) and `head`; WideLast has `proj_in` and `proj_norm` in its last
block; any other state dict is taken for a plain DeiT's. Widths, depth, image size and classes follow from the shapes.
The number of heads does not; each has 64 channels, as in DeiT.
"""

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import clean_state_dict
from torch import Tensor, nn
from torch.serialization import safe_globals

from stages.core.base.errors import UserError
from stages.core.models import folders

HEAD_CHANNELS = 64
CROP_PCT = 224 / 256  # the authors evaluate on the middle 224 pixels of 256
SHOWN = 8  # the most keys that an error lists of one kind


@dataclass(frozen=True)
class Student:
    """One of the authors' students.

    Attributes:
        architecture: its timm name.
        arguments: of the architecture.
        classes: of its head.
        model: with its weights, in evaluation mode, and the authors' evaluation transform.
    """

    architecture: str
    arguments: Mapping[str, Any]
    classes: int
    model: nn.Module


def student(checkpoint: Path) -> Student:
    """One of the authors' students, from a file that torch.save wrote.

    Raises:
        UserError: the file cannot be read without executing what it contains, or its keys or shapes are not those of
            such a student.
    """
    state = read(checkpoint)
    try:
        architecture, arguments, classes = recognise(state)
        model = folders.create(
            architecture,
            arguments,
            classes=classes,
            seed=0,
            image_size=arguments["img_size"],
            crop_pct=CROP_PCT,
            interpolation="bicubic",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
        )
        fill(model, state, names(model, architecture))
    except UserError as error:
        raise UserError(f"{checkpoint} is not one of the authors' students: {error}") from None
    return Student(architecture, arguments, classes, model.eval())


def read(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, on the CPU, without the prefixes of DDP and torch.compile.

    Nothing that the file names is executed: torch's weights-only unpickler builds tensors and plain containers, and
    `argparse.Namespace`, in which training scripts keep their arguments. A namespace has only attributes, and no
    `__reduce__`, `__setstate__` or destructor that could be misused.

    Raises:
        UserError: the file is missing or damaged, names any other global, or does not hold a state dict.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a checkpoint that torch.save wrote")
    try:
        with safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can fail anywhere
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise UserError(
                f"{path} is refused: it names the global {_plain(refused[1])}, which loading could execute; "
                "ask for a file that holds the state dict alone"
            ) from None
        fault = re.search(r"WeightsUnpickler error: (.+)", str(error))  # the rest is advice to load unsafely
        reason = _plain(fault[1]) if fault else _first_line(error)
        raise UserError(f"{path} cannot be read safely as a checkpoint ({reason})") from None
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path} does not hold a state dict, neither bare nor under the key `model`")
    return clean_state_dict(state)


def recognise(state: Mapping[str, Any]) -> tuple[str, dict[str, Any], int]:
    """The student that a state dict belongs to: timm architecture, its arguments, number of classes.

    A size whose tensor is missing defaults to DeiT-Tiny's, so that `fill` can report everything that is wrong.

    Raises:
        UserError: a width is not a whole number of heads.
    """
    lifted = any(key.startswith(("base_model.", "projections.")) for key in state)
    base = "base_model." if lifted else ""

    def size(key: str, dimension: int, default: int) -> int:
        tensor = state.get(key)
        known = isinstance(tensor, Tensor) and tensor.ndim > dimension and tensor.shape[dimension]
        return known or default

    width = size(f"{base}patch_embed.proj.weight", 0, 192)
    patch = size(f"{base}patch_embed.proj.weight", 2, 16)
    blocks = [key.removeprefix(f"{base}blocks.") for key in state if key.startswith(f"{base}blocks.")]
    depth = len({key.partition(".")[0] for key in blocks}) or 12
    arguments = {
        "img_size": patch * isqrt(max(1, size(f"{base}pos_embed", 1, 1 + (224 // patch) ** 2) - 1)),
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": _heads(width),
    }
    classes = size("head.weight", 0, 1000)
    if lifted:
        arguments["lift_width"] = size(f"projections.{depth - 1}.weight", 0, 384)
        return "deit_tiny_lift_patch16_224", arguments, classes
    if any(key.endswith(".proj_in.weight") for key in blocks):
        widened = size(f"blocks.{depth - 1}.proj_in.weight", 0, 384)
        arguments |= {"widen_width": widened, "widen_heads": _heads(widened)}
        return "deit_tiny_widelast_patch16_224", arguments, classes
    return "deit_tiny_patch16_224", arguments, classes


def names(model: nn.Module, architecture: str) -> dict[str, str]:
    """The authors' name for each of a model's tensors."""
    own = list(model.state_dict())
    if architecture != "deit_tiny_lift_patch16_224":
        return {key: key for key in own}
    last = len(model.blocks) - 1  # type: ignore[arg-type]
    theirs = {"lift_proj": f"projections.{last}", "lift_norm": f"layer_norms.{last}", "head": "head"}
    return {
        key: f"{theirs[part]}.{rest}" if part in theirs else f"base_model.{key}"
        for key in own
        for part, _, rest in [key.partition(".")]
    }


def fill(model: nn.Module, state: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Load a whole state dict with the authors' names.

    Args:
        model: changed in place.
        state: tensors by the authors' names; it may have the norm and head of a lifted DeiT, which are not used.
        names: the authors' name for each of the model's, see `names`.

    Raises:
        UserError: keys are missing or unknown, or shapes differ; the text names them.
    """
    wanted = {names[key]: list(tensor.shape) for key, tensor in model.state_dict().items()}
    unread = {f"base_model.{part}.{kind}" for part in ("norm", "head") for kind in ("weight", "bias")}
    shapes = {key: list(value.shape) if isinstance(value, Tensor) else "not a tensor" for key, value in state.items()}
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unknown": [key for key in state if key not in wanted and key not in unread],
        "of another shape": [
            f"{key} {shapes[key]} instead of {shape}"
            for key, shape in wanted.items()
            if key in state and shapes[key] != shape
        ],
    }
    if any(faults.values()):
        raise UserError("; ".join(f"{kind}: {_listed(keys)}" for kind, keys in faults.items() if keys))
    try:
        model.load_state_dict({key: state[name] for key, name in names.items()})
    except RuntimeError as error:  # a tensor without values, or of a layout that cannot be copied
        raise UserError(_first_line(error)) from None


def _heads(width: int) -> int:
    if width % HEAD_CHANNELS:
        raise UserError(f"a student {width} wide does not have a whole number of heads of {HEAD_CHANNELS} channels")
    return width // HEAD_CHANNELS


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(map(_plain, keys[:SHOWN])) + more


def _first_line(error: Exception) -> str:
    return _plain((str(error).strip() or type(error).__name__).splitlines()[0])


def _plain(text: str) -> str:
    """Text from a file, on one line and without control characters."""
    return (text if text.isprintable() else ascii(text))[:200]
