"""Two folders of results: what differs by rounding, what by more, and what is not the same run at all."""

import json

import pandas as pd
import pytest

from stages.core.base.errors import UserError
from stages.core.evidence.deviations import Deviation, deviations

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
