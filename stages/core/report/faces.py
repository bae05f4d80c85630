"""What a figure is of, in the few words that stand on its face: dataset, images, model or seeds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.core.base.names import plural
from stages.core.report.style import backbone_name


def students(data: Mapping[str, Any], runs: pd.DataFrame) -> str:
    """Of figures of trained students: the validation images, and how many seeds a setting has.

    Args:
        data: the manifest of the images, data.json.
        runs: runs.csv, or rows with its columns strategy, objective and seed.
    """
    return f"{data['dataset']} · {data['val']['images']:,} validation images · {seeds(runs)}"


def sample(images: int, data: Mapping[str, Any], runs: pd.DataFrame) -> str:
    """Of figures of what trained students make of the `images` of the analysis sample; the rest as in `students`."""
    return f"{data['dataset']} · {images:,} images of the analysis sample · {seeds(runs)}"


def backbone(data: Mapping[str, Any], of: Mapping[str, Any]) -> str:
    """Of figures of one backbone: the model, its weights, and how many images.

    Args:
        data: as in `students`.
        of: the backbone's part of svd.json, pca.json, sep.json or rotation.json.
    """
    return f"{data['dataset']} · {of['images']:,} images · {_model(of)}"


def backbones(data: Mapping[str, Any], of: Mapping[str, Mapping[str, Any]]) -> str:
    """Of figures of several backbones: how many, and of how many images; of one as `backbone` says it.

    Args:
        data: as in `students`.
        of: svd.json, pca.json, sep.json or rotation.json.
    """
    first = next(iter(of.values()))
    if len(of) == 1:
        return backbone(data, first)
    return f"{data['dataset']} · {first['images']:,} images · {plural(len(of), 'backbone')}"


def validated(data: Mapping[str, Any], of: Mapping[str, Any]) -> str:
    """Of figures of one backbone on the validation images.

    Args:
        data: as in `students`.
        of: the backbone's part of truncation.json.
    """
    return f"{data['dataset']} · {data['val']['images']:,} validation images · {_model(of)}"


def seeds(runs: pd.DataFrame) -> str:
    """How many seeds a setting has, as `1 seed`, `2 seeds` or `1 to 3 seeds`."""
    numbers = runs.groupby(["strategy", "objective"])["seed"].nunique()
    least, most = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    return f"{least} to {most} seeds" if least < most else plural(most, "seed")


def _model(of: Mapping[str, Any]) -> str:
    """A backbone's name and architecture, and where its weights are from."""
    name = backbone_name({**of, "weights": "known"})
    weights = {"fit": "fitted", "finetune": "fine-tuned", "random": "random weights"}
    architecture = of.get("architecture", name)
    model = name if architecture == name else f"{name} ({architecture})"
    return f"{model}, {weights.get(of['weights'], of['weights'])}"
