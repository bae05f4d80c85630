"""Runs side by side: strategies and objectives over seeds."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError
from stages.core.config.schema import EVALUATION_SETTINGS, RECIPE_SETTINGS, Objective
from stages.core.evidence.applied import means
from stages.core.evidence.results import cell

RUN_COLUMNS = (
    *("run", "strategy", "objective", "seed"),
    *("architecture", "model_args", "width", "teacher_width", "teacher_weights"),
    *Objective.model_fields,
    *RECIPE_SETTINGS,
    *EVALUATION_SETTINGS,
    *("top1", "top1_best", "top1_best_epoch", "top5", "loss", "relative_feature_error", "parameters", "flops"),
)


def runs_table(metrics: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per run, from the runs' metrics.json; what differs between machines (speed) stays there.

    Lists and mappings, such as the student's arguments, are JSON in one cell. A student wider than its teacher has no
    feature error.
    """
    rows = [{name: cell(value) for name, value in one.items()} for one in metrics]
    return pd.DataFrame(rows, columns=list(RUN_COLUMNS)).astype({"relative_feature_error": float})


def check_settings(runs: pd.DataFrame) -> None:
    """Check that all runs have one recipe, those of an objective one objective, those of a strategy one student.

    A feature loss may have another weight for another strategy.

    Raises:
        UserError: two runs differ, as where one seed was trained again with other parameters and another was not.
    """
    everything = pd.Series("the recipe", index=runs.index)
    for groups, columns in (
        (runs["objective"], [name for name in Objective.model_fields if name != "feature_weight"]),
        (runs["strategy"] + "-" + runs["objective"], ["feature_weight"]),
        (runs["strategy"], ("architecture", "model_args")),
        (everything, RECIPE_SETTINGS),
    ):
        for (name, group), column in product(runs.groupby(groups), columns):
            values = group[column].astype(str)
            if values.nunique() > 1:
                first, other = group.index[0], values[values != values.iloc[0]].index[0]
                (one, before), (two, after) = (runs.loc[[first, other], ["run", column]]).values
                raise UserError(
                    f"{name}: {column} is {before} in {one} and {after} in {two}, and runs of one setting are compared "
                    "as its seeds; run `dvc repro` to train all of them with params.yaml as it is"
                )


def comparison_table(runs: pd.DataFrame, encoding: pd.DataFrame) -> pd.DataFrame:
    """Top-1 (percent), the best linear projector's error and the relative feature error per strategy and objective.

    Mean and sample standard deviation over seeds (empty for one seed), in the order of `runs`. The projector's error
    can be compared between all strategies. The feature error of a student narrower than its teacher is measured
    against a pooled target and cannot be compared with a wider student's. How far a feature loss moved the features is
    the mean over seeds of the columns of `applied`.

    Args:
        runs: runs.csv.
        encoding: encoding.csv.
    """
    measured = runs.merge(encoding[["run", "probe_error"]], on="run", how="left", validate="one_to_one")
    groups = measured.groupby(["strategy", "objective"], sort=False)
    return (
        groups.agg(
            seeds=("seed", "size"),
            top1_mean=("top1", "mean"),
            top1_std=("top1", "std"),
            probe_error_mean=("probe_error", "mean"),
            probe_error_std=("probe_error", "std"),
            feature_error_mean=("relative_feature_error", "mean"),
            feature_error_std=("relative_feature_error", "std"),
        )
        .join(means(runs).add_suffix("_mean"))
        .reset_index()
    )


def nested_means(runs: pd.DataFrame, measure: str, digits: int) -> dict[str, dict[str, float]]:
    """Means over seeds as {strategy: {objective: value}}, rounded; a setting without a value is left out."""
    means = runs.groupby(["strategy", "objective"], sort=False)[measure].mean().dropna()
    nested: dict[str, dict[str, float]] = {}
    for key, value in means.items():
        strategy, objective = cast(tuple[str, str], key)
        nested.setdefault(strategy, {})[objective] = round(float(value), digits)
    return nested


def correct_predictions(runs: pd.DataFrame, folders: Mapping[str, Path], truth: np.ndarray) -> dict[str, np.ndarray]:
    """For each run, which validation images it classifies correctly, [images] of booleans.

    Args:
        runs: runs.csv.
        folders: of each run, by its name.
        truth: the labels of the validation images, [images].

    Raises:
        UserError: a run's predictions contradict its top-1 on these images.
    """
    correct = {}
    for name, top1 in zip(runs["run"], runs["top1"], strict=True):
        path = folders[name] / "predictions.npy"
        predicted = read_npy(path)
        if predicted.shape != truth.shape or abs(100 * (predicted == truth).mean() - top1) > 0.01:
            raise UserError(
                f"{path} does not fit the run's top-1 on these images; delete {folders[name]}, run `dvc repro`"
            )
        correct[name] = predicted == truth
    return correct
