"""Two folders of results: what differs by rounding, what by more, and what is not the same run at all."""

import json
import shutil

import pandas as pd
import pytest

from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.deviations import STEP, Deviation, _quantities, deviations, kind

RUNS = {
    "run": ["a", "b"],
    "objective": [None, "mse"],
    "top1": [97.0, 95.0],
    "clip_grad": [None, None],
    "loss": [0.25, 0.5],
}
TEACHER = {"top1": 96.0, "weights": "fit", "input_size": [3, 8, 8], "seed": None}


@pytest.fixture
def write(tmp_path):
    def written(name, runs=RUNS, teacher=TEACHER):
        folder = tmp_path / name
        folder.mkdir()
        pd.DataFrame(runs).to_csv(folder / "runs.csv", index=False)
        (folder / "teacher.json").write_text(json.dumps(teacher))
        return folder

    return written


def test_equal_results_have_no_deviation(write):
    assert deviations(write("one"), write("other")) == []


def test_each_quantity_has_its_largest_difference(write):
    other = write("other", RUNS | {"top1": [97.2, 94.5]}, TEACHER | {"top1": 96.25})
    found = deviations(write("one"), other)
    assert found == [Deviation("runs/top1", 0.5, 97.2), Deviation("teacher/top1", 0.25, 96.25)]


@pytest.mark.parametrize(
    ("difference", "measured", "rounding"),
    [(0.5, {}, False), (0.5, {"q": 0.2}, True), (0.7, {"q": 0.2}, False), (9e-4, {}, True), (2e-3, {"r": 9.0}, False)],
)
def test_rounding_is_what_other_kernels_cause(difference, measured, rounding):
    assert Deviation("q", difference, 100.0).is_rounding(measured) == rounding


@pytest.mark.parametrize(
    ("quantity", "of"),
    [
        ("sep/teacher/folded/bandwidth_over_images/observed/low/50", "sep/bandwidth_over_images/low"),
        ("pca/vit_base_patch16_224.dino/token_dims/fewest/80/gaussian/median", "pca/token_dims/percentile"),
        ("svd/teacher/blocks/3/dims_p99/95", "svd/blocks/dims_percentile"),
        ("energy/per_image_p10", "energy/per_image_percentile"),
        ("encoding/permuted_bandwidth_folded_50", "encoding/permuted_bandwidth_folded"),
        ("truncation/teacher/energy/shared/85", "truncation/energy"),
        ("truncation/shared", "truncation/shared"),
        ("runs/top1", "runs/top1"),
    ],
)
def test_quantities_of_one_kind_differ_in_backbone_block_level_percentile_or_null(quantity, of):
    assert kind(quantity) == of


def test_what_moved_at_one_level_may_move_at_another_and_a_setting_nowhere():
    measured = {kind("sep/teacher/permutation/shift_low/90"): 6e-06, "curves/loss": 0.003}
    for quantity, difference, rounding in (
        ("sep/teacher/permutation/distance_std", 3e-6, False),
        ("sep/teacher/permutation/shift_low/60", 1e-5, True),
        ("curves/loss", 0.008, True),
        ("curves/loss", 0.01, False),
        ("dims/per_image", 1.0, True),  # one image's dims, though none was seen to move
        ("dims/per_image", 2.0, False),
        ("teacher/top1", 0.1112, True),  # one image, in digits that are rounded
        ("teacher/top1", 0.2223, False),
        ("runs/seed", 1.0, False),
        ("runs/epochs", 1.0, False),
    ):
        assert Deviation(quantity, difference, 0.1).is_rounding(measured) == rounding, quantity


def test_where_a_curve_is_largest_is_not_compared(write):
    gap = {"teacher": {"largest_gap": 0.0101, "largest_gap_at": 0.48, "permutations": 9}}
    one, other = write("one"), write("other")
    (one / "sep.json").write_text(json.dumps(gap))
    (other / "sep.json").write_text(
        json.dumps({"teacher": gap["teacher"] | {"largest_gap": -0.01, "largest_gap_at": 0.5}})
    )
    assert deviations(one, other) == []


def test_bounds_are_of_quantities_that_there_are(committed):
    """A bound by a name that a stage no longer writes would bind nothing."""
    kinds = {kind(name) for path in (committed / "reports/results").iterdir() for name in _quantities(path)}
    assert {*STEP, *read_json(committed / "reports/rounding.json")} <= kinds


@pytest.fixture
def altered(committed, tmp_path):
    """The committed results with a change to each of their tables."""

    def write_altered(change):
        folder = shutil.copytree(committed / "reports/results", tmp_path / change.__name__)
        for file in folder.glob("*.csv"):
            table = pd.read_csv(file, keep_default_na=False, na_values=[""])
            change(file.stem, table, list(table.select_dtypes("float")))
            table.to_csv(file, index=False)
        return deviations(committed / "reports/results", folder)

    return write_altered


def test_the_recorded_bounds_tell_another_seed_from_other_kernels(committed, altered):
    measured = read_json(committed / "reports/rounding.json")

    def as_other_kernels(file, table, columns):
        for name in columns:
            table[name] += measured.get(kind(f"{file}/{name}"), 0.0)

    def as_another_seed(file, table, columns):
        if "seed" in table:
            run = (table["strategy"] == "baseline") & (table["objective"] == "none")
            zero, one = (run & (table["seed"] == seed) for seed in (0, 1))
            columns = [name for name in columns if name != "seed"]
            table.loc[zero, columns] = table.loc[one, columns].to_numpy()

    kernels, seed = altered(as_other_kernels), altered(as_another_seed)
    assert len(kernels) > 20 and all(one.is_rounding(measured) for one in kernels)
    beyond = {one.quantity.partition("/")[0] for one in seed if not one.is_rounding(measured)}
    assert {"runs", "curves", "encoding", "blocks", "cka"} <= beyond


def test_a_verdict_that_comes_and_goes_is_no_deviation(write):
    one, other = write("one"), write("other")
    (one / "differences.csv").write_text("verdict,paired_low\nnot shown,\n")
    (other / "differences.csv").write_text("verdict,paired_low\nhigher,0.1\n")
    assert deviations(one, other) == []


@pytest.mark.parametrize(
    ("runs", "teacher", "reason"),
    [
        (RUNS | {"run": ["a", "c"]}, TEACHER, "runs/run has other rows or settings"),
        (RUNS | {"clip_grad": [None, 1.0]}, TEACHER, "runs/clip_grad is missing in other rows"),
        ({name: values[:1] for name, values in RUNS.items()}, TEACHER, "runs/run has other rows or settings"),
        (RUNS | {"more": [1, 2]}, TEACHER, "runs.csv has other columns or keys"),
        (RUNS, TEACHER | {"weights": "random"}, "teacher/weights has other rows or settings"),
        (RUNS, TEACHER | {"seed": 1}, "teacher/seed has other rows or settings"),
        (RUNS, TEACHER | {"input_size": [3, 8]}, "teacher.json has other columns or keys"),
    ],
)
def test_another_run_is_named(write, runs, teacher, reason):
    with pytest.raises(UserError, match=reason) as caught:
        deviations(write("one"), write("other", runs, teacher))
    assert "\n" not in str(caught.value)


def test_a_file_that_one_lacks_is_named(write):
    one, other = write("one"), write("other")
    (one / "rank.csv").touch()
    with pytest.raises(UserError, match=r"^rank.csv: only one of .* has it; compare runs of one commit$"):
        deviations(one, other)
