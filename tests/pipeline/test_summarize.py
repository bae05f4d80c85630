"""Collecting the stages' arrays and metrics under the names that their writers give."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from stages.core.analysis import nulls, participation
from stages.core.base.arrays import write_npy
from stages.core.base.names import run_name
from stages.core.evidence.analysis_tables import participation_table, sep_table
from stages.core.evidence.comparison import RUN_COLUMNS, comparison_table, nested_means, runs_table


@pytest.mark.parametrize("order", list(itertools.permutations(nulls.EXPECTED)))
def test_nulls_are_labelled_in_the_order_in_which_sep_writes_them(order, tmp_path, monkeypatch):
    monkeypatch.setattr(nulls, "EXPECTED", order)
    value = {"white_noise": 0.1, "permuted_expected": 0.2, "gaussian": 0.3}
    for spectrum in ("full", "folded"):
        write_npy(tmp_path / f"teacher/curve_{spectrum}.npy", np.arange(4.0)[:, None] + np.zeros(5))
        write_npy(tmp_path / f"teacher/nulls_{spectrum}.npy", np.stack([np.full(5, value[name]) for name in order]))
    table = sep_table(tmp_path, ["teacher"])
    assert (table[list(value)] == list(value.values())).all(axis=None)
    assert (table[["observed", "permuted_mean", "permuted_p5", "permuted_p95"]] == [0, 1, 2, 3]).all(axis=None)


def test_bases_are_labelled_in_the_order_in_which_pca_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(participation, "BASES", participation.BASES[::-1])
    channels, directions = np.full((2, 101), 1.0), np.full((2, 101), 2.0)
    write_npy(tmp_path / "teacher/participation.npy", np.stack([directions, channels]))
    table = participation_table(tmp_path, ["teacher"])
    assert dict(table.groupby("basis")["observed"].mean()) == {"channels": 1.0, "pca": 2.0}


def metrics(strategy: str, error: float | None) -> dict:
    known = dict.fromkeys(RUN_COLUMNS, 0)
    own = {"strategy": strategy, "objective": "none", "model_args": {"lift_width": 448, "img_size": 224}, "top1": 75.0}
    return known | own | {"run": run_name(strategy, "none", 0), "relative_feature_error": error}


@pytest.mark.parametrize("others", [[], [metrics("lift", 0.5)]])
def test_a_student_wider_than_its_teacher_has_an_accuracy_and_no_error(others):
    runs = runs_table([metrics("lift_448", None), *others])
    assert nested_means(runs, "top1", 2)["lift_448"] == {"none": 75.0}
    assert "lift_448" not in nested_means(runs, "relative_feature_error", 3)
    json.dumps(nested_means(runs, "relative_feature_error", 3), allow_nan=False)
    encoding = pd.DataFrame({"run": runs["run"], "probe_error": 0.25})
    row = comparison_table(runs, encoding).iloc[0]
    assert row["probe_error_mean"] == 0.25
    assert row["top1_mean"] == 75.0 and np.isnan(row["feature_error_mean"])
    assert json.loads(runs["model_args"].iloc[0]) == {"img_size": 224, "lift_width": 448}
