"""Collecting the stages' arrays and metrics under the names that their writers give."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from stages.core.analysis import nulls, participation
from stages.core.analysis.dims import CAPTURED
from stages.core.base.arrays import write_npy
from stages.core.base.files import write_json
from stages.core.base.names import Run
from stages.core.evidence.analysis_tables import (
    energy_table,
    participation_table,
    ranks_table,
    sep_table,
    stage_dims_table,
)
from stages.core.evidence.comparison import RUN_COLUMNS, comparison_table, nested_means, runs_table


@pytest.mark.parametrize("order", list(itertools.permutations(nulls.EXPECTED)))
def test_nulls_are_labelled_in_the_order_in_which_sep_writes_them(order, tmp_path, monkeypatch):
    monkeypatch.setattr(nulls, "EXPECTED", order)
    value = {"white_noise": 0.1, "permuted_expected": 0.2, "gaussian": 0.3}
    for spectrum in ("full", "folded"):
        write_npy(tmp_path / f"teacher/curve_{spectrum}.npy", np.arange(4.0)[:, None] + np.zeros(5))
        write_npy(tmp_path / f"teacher/std_{spectrum}.npy", np.full(5, 4.0))
        write_npy(tmp_path / f"teacher/nulls_{spectrum}.npy", np.stack([np.full(5, value[name]) for name in order]))
    table = sep_table(tmp_path, ["teacher"])
    assert (table[list(value)] == list(value.values())).all(axis=None)
    columns = ["observed", "permuted_mean", "permuted_p5", "permuted_p95", "token_std"]
    assert (table[columns] == [0, 1, 2, 3, 4]).all(axis=None)


def test_bases_are_labelled_in_the_order_in_which_pca_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(participation, "BASES", participation.BASES[::-1])
    channels, directions = np.full((2, 101), 1.0), np.full((2, 101), 2.0)
    write_npy(tmp_path / "teacher/participation.npy", np.stack([directions, channels]))
    table = participation_table(tmp_path, ["teacher"])
    assert dict(table.groupby("basis")["observed"].mean()) == {"channels": 1.0, "pca": 2.0}


def test_energy_columns_are_labelled_as_the_stages_write_them(tmp_path):
    for name, dimensions, curve in (("svd", 2, 0.5), ("pca", 3, 0.25)):
        write_npy(tmp_path / name / "x/curve.npy", np.full(dimensions, curve))
        percents = np.array(CAPTURED, dtype=float)[:, None]
        write_npy(tmp_path / name / "x/captured.npy", percents + np.zeros(dimensions))
    write_npy(tmp_path / "pca/x/eigenvalues.npy", np.array([6.0, 3.0, 1.0]))
    table = energy_table(tmp_path / "svd", tmp_path / "pca", ["x"])
    assert list(table["eigenvalue"]) == [0.6, 0.3, 0.1]
    assert (table[["dims", "pca", "pca_p50", "pca_p10", "pca_p1"]].iloc[2] == [3, 0.25, 50, 10, 1]).all()
    assert (table[["svd", "svd_p50", "svd_p10", "svd_p1"]].iloc[1] == [0.5, 50, 10, 1]).all()
    assert table[["svd", "svd_p50", "svd_p10", "svd_p1"]].iloc[2].isna().all()


def test_stage_dims_count_every_image_of_models_whose_blocks_differ(tmp_path, rng):
    dims = rng.integers(1, 6, size=(2, 30, 2)).astype(np.int32)
    for backbone, channels in (("swin", (8, 16)), ("vit", (8, 8))):
        write_npy(tmp_path / backbone / "dims.npy", dims)
        blocks = [{"block": block, "tokens": 4, "channels": width} for block, width in enumerate(channels)]
        write_json(tmp_path / backbone / "metrics.json", {"thresholds": [80, 95], "blocks": blocks})
    table = stage_dims_table(tmp_path, ["vit", "swin"])
    assert set(table["backbone"]) == {"swin"}
    for (block, threshold), rows in table.groupby(["block", "threshold"]):
        counted = np.repeat(rows["dims"], rows["images"])
        np.testing.assert_array_equal(counted, np.sort(dims[block, :, [80, 95].index(threshold)]))
    assert list(stage_dims_table(tmp_path, ["vit"])) == list(table)


def test_ranks_count_every_image(tmp_path):
    write_npy(tmp_path / "x/ranks.npy", np.array([5, 3, 5, 5], np.int32))
    assert ranks_table(tmp_path, ["x"]).to_numpy().tolist() == [["x", 3, 1], ["x", 5, 3]]


def metrics(strategy: str, error: float | None) -> dict:
    known = dict.fromkeys(RUN_COLUMNS, 0)
    own = {"strategy": strategy, "objective": "none", "model_args": {"lift_width": 448, "img_size": 224}, "top1": 75.0}
    return known | own | {"run": Run(strategy, "none", 0).name, "relative_feature_error": error}


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
