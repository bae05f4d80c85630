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
from stages.core.evidence.analysis_tables import of_analyses, with_teachers_floor
from stages.core.evidence.comparison import RUN_COLUMNS, comparison_table, nested_means, runs_table

THRESHOLDS = [80, 95]


def write(folder, metrics, **arrays):
    """What an analysis leaves of a backbone."""
    write_json(folder / "metrics.json", metrics)
    for name, array in arrays.items():
        write_npy(folder / f"{name}.npy", np.asarray(array))


@pytest.fixture
def found(tmp_path, rng):
    """By analysis its folder, with results of two backbones: one of equal blocks, and one of stages."""
    percents = np.array(CAPTURED, dtype=float)[:, None]
    for backbone, channels in (("vit", (3, 3)), ("swin", (2, 3))):
        blocks = [{"block": block, "tokens": 2, "channels": width} for block, width in enumerate(channels)]
        known = {"thresholds": THRESHOLDS, "channels": 3, "blocks": blocks}
        spread = {"dims": rng.integers(1, 3, size=(2, 4, 2)), "ranks": np.array([2, 1, 2, 2], np.int32)}
        own = {"curve": np.full(2, 0.5), "captured": percents + np.zeros(2), "spectrum": [3.0, 1.0]}
        write(tmp_path / "svd" / backbone, known, **spread, **own)
        shared = {"curve": np.full(3, 0.25), "captured": percents + np.zeros(3), "eigenvalues": [6.0, 3.0, 1.0]}
        ratios = {"channels": 1.0, "shared": 2.0}  # by the name of the basis
        participation_ratios = np.stack([np.full((2, 101), ratios[basis]) for basis in participation.BASES])
        per_image = {"dims": rng.integers(1, 4, size=(4, 2)), "participation": participation_ratios}
        write(tmp_path / "pca" / backbone, known, **shared, **per_image)
    return {name: tmp_path / name for name in ("svd", "pca")}


def test_tables_of_two_analyses_stand_side_by_side(found):
    """In an image's own basis there are as many dims as tokens, here 2, in the shared one 3, as many as channels."""
    tables = of_analyses(found, ["vit", "swin"])
    energy = tables["energy"].query("backbone == 'vit'")
    assert list(energy["eigenvalue"]) == [0.6, 0.3, 0.1]
    assert (energy[["dims", "shared", "shared_p50", "shared_p10", "shared_p1"]].iloc[2] == [3, 0.25, 50, 10, 1]).all()
    assert (energy[["per_image", "per_image_p50", "per_image_p10", "per_image_p1"]].iloc[1] == [0.5, 50, 10, 1]).all()
    assert energy[["per_image", "per_image_p50", "per_image_p10", "per_image_p1"]].iloc[2].isna().all()
    floor = tables["floor"].query("backbone == 'swin'")
    assert floor[["dims", "per_image", "shared"]].to_numpy().tolist() == [
        [1, 0.25, pytest.approx(0.4)],
        [2, 0, pytest.approx(0.1)],
        [3, 0, 0],
    ]
    dims = tables["dims"].query("backbone == 'vit'")
    for column, threshold in enumerate(THRESHOLDS):
        rows = dims[dims["threshold"] == threshold].sort_values("image")
        np.testing.assert_array_equal(rows["per_image"], np.load(found["svd"] / "vit/dims.npy")[-1, :, column])
        np.testing.assert_array_equal(rows["shared"], np.load(found["pca"] / "vit/dims.npy")[:, column])


def test_an_analysis_at_other_thresholds_leaves_cells_empty(found):
    file = found["pca"] / "vit/metrics.json"
    write_json(file, json.loads(file.read_text()) | {"thresholds": [90, 95]})
    dims = of_analyses(found, ["vit"])["dims"].set_index("threshold")
    assert dims.loc[80, "shared"].isna().all() and dims.loc[90, "per_image"].isna().all()
    assert dims.loc[95, ["per_image", "shared"]].notna().all(axis=None)


def test_every_image_is_counted(found):
    tables = of_analyses(found, ["vit", "swin"])
    assert tables["ranks"].to_numpy().tolist() == [[name, *row] for name in ("vit", "swin") for row in ([1, 1], [2, 3])]
    stage_dims = tables["stage_dims"]
    assert set(stage_dims["backbone"]) == {"swin"}  # the only one whose blocks differ
    dims = np.load(found["svd"] / "swin/dims.npy")
    for (block, threshold), rows in stage_dims.groupby(["block", "threshold"]):
        counted = np.repeat(rows["dims"], rows["images"])
        np.testing.assert_array_equal(counted, np.sort(dims[block, :, THRESHOLDS.index(threshold)]))
    assert list(of_analyses(found, ["vit"])["stage_dims"]) == list(stage_dims)


@pytest.mark.parametrize("order", list(itertools.permutations(nulls.EXPECTED)))
def test_nulls_are_labelled_in_the_order_in_which_sep_writes_them(order, tmp_path, monkeypatch):
    monkeypatch.setattr(nulls, "EXPECTED", order)
    value = {"white_noise": 0.1, "permuted_expected": 0.2, "gaussian": 0.3}
    for spectrum in ("full", "folded"):
        write_npy(tmp_path / f"teacher/curve_{spectrum}.npy", np.arange(4.0)[:, None] + np.zeros(5))
        write_npy(tmp_path / f"teacher/std_{spectrum}.npy", np.full(5, 4.0))
        write_npy(tmp_path / f"teacher/nulls_{spectrum}.npy", np.stack([np.full(5, value[name]) for name in order]))
    table = of_analyses({"sep": tmp_path}, ["teacher"])["sep_curves"]
    assert (table[list(value)] == list(value.values())).all(axis=None)
    columns = ["observed", "permuted_mean", "permuted_p5", "permuted_p95", "token_std"]
    assert (table[columns] == [0, 1, 2, 3, 4]).all(axis=None)


@pytest.mark.parametrize("order", list(itertools.permutations(participation.BASES)))
def test_bases_are_labelled_in_the_order_in_which_pca_writes_them(order, monkeypatch, request):
    monkeypatch.setattr(participation, "BASES", order)
    table = of_analyses(request.getfixturevalue("found"), ["vit"])["participation"]
    assert dict(table.groupby("basis")["observed"].mean()) == {"channels": 1.0, "shared": 2.0}


def test_the_teachers_floor_is_under_the_students_transform(found):
    floor = of_analyses(found, ["vit"])["floor"]
    table = with_teachers_floor(floor, np.array([[0.5, 0.0], [0.2, 0.0]]))
    assert list(table) == list(floor) and list(table["backbone"]) == ["teacher"] * 2 + ["vit"] * 3
    assert table[["dims", "shared", "per_image"]].head(2).to_numpy().tolist() == [[1, 0.5, 0.2], [2, 0, 0]]


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
