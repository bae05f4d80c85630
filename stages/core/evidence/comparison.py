"""Runs side by side: strategies and objectives over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError

RUN_COLUMNS = (
    "run",
    "strategy",
    "objective",
    "seed",
    "architecture",
    "model_args",
    "width",
    "teacher_width",
    "teacher_weights",
    "alpha",
    "tau",
    "feature",
    "feature_weight",
    "epochs",
    "epoch_steps",
    "global_batch",
    "lr",
    "weight_decay",
    "warmup_epochs",
    "warmup_lr",
    "min_lr",
    "label_smoothing",
    "clip_grad",
    "repeats",
    "auto_augment",
    "random_erasing",
    "top1",
    "top5",
    "loss",
    "relative_feature_error",
    "parameters",
    "flops",
)


def runs_table(metrics: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per run, from the runs' metrics.json; what differs from machine to machine (speed) stays there.

    The arguments of the student are JSON, in one cell. A student wider than its teacher has no feature error.
    """
    rows = [{**one, "model_args": json.dumps(one["model_args"], sort_keys=True)} for one in metrics]
    return pd.DataFrame(rows, columns=list(RUN_COLUMNS)).astype({"relative_feature_error": float})


def comparison_table(runs: pd.DataFrame, encoding: pd.DataFrame) -> pd.DataFrame:
    """Top-1 (percent), the best linear projector's error and the relative feature error per strategy and objective.

    Mean and sample standard deviation over seeds (empty for one seed), in the order of `runs`. The projector's error
    compares all strategies. The feature error of a student narrower than its teacher is against a pooled target, and
    not to be compared with that of a wider one.

    Args:
        runs: runs.csv.
        encoding: encoding.csv.
    """
    measured = runs.merge(encoding[["run", "probe_error"]], on="run", how="left", validate="one_to_one")
    groups = measured.groupby(["strategy", "objective"], sort=False)
    return groups.agg(
        seeds=("seed", "size"),
        top1_mean=("top1", "mean"),
        top1_std=("top1", "std"),
        probe_error_mean=("probe_error", "mean"),
        probe_error_std=("probe_error", "std"),
        feature_error_mean=("relative_feature_error", "mean"),
        feature_error_std=("relative_feature_error", "std"),
    ).reset_index()


def nested_means(runs: pd.DataFrame, measure: str, digits: int) -> dict[str, dict[str, float]]:
    """Means over seeds as {strategy: {objective: value}}, rounded; a setting without a value is left out."""
    means = runs.groupby(["strategy", "objective"], sort=False)[measure].mean().dropna()
    nested: dict[str, dict[str, float]] = {}
    for key, value in means.items():
        strategy, objective = cast(tuple[str, str], key)
        nested.setdefault(strategy, {})[objective] = round(float(value), digits)
    return nested


def right_predictions(runs: pd.DataFrame, folder: Path, truth: np.ndarray) -> dict[str, np.ndarray]:
    """For each run, which validation images it classifies rightly, [images] of booleans.

    Args:
        runs: runs.csv.
        folder: of the runs, a folder each.
        truth: the labels of the validation images, [images].

    Raises:
        UserError: a run's predictions do not belong to its accuracy and the images.
    """
    right = {}
    for name, top1 in zip(runs["run"], runs["top1"], strict=True):
        path = folder / name / "predictions.npy"
        predicted = read_npy(path)
        if predicted.shape != truth.shape or abs(100 * (predicted == truth).mean() - top1) > 0.01:
            raise UserError(
                f"{path} does not fit the run's top-1 on these images; delete {folder / name}, run `dvc repro`"
            )
        right[name] = predicted == truth
    return right
