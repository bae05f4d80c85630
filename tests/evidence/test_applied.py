"""How far feature losses moved what they aim at: from tables of a few runs, and of a study that recorded less."""

import numpy as np
import pandas as pd
import pytest

from stages.core.evidence.applied import (
    APPLIED_COLUMNS,
    FAILED,
    MATCHING_COLUMNS,
    PASSED,
    UNCHECKED,
    check,
    means,
    moved,
    with_applied,
)
from stages.core.evidence.results import read_table

OBJECTIVES = {
    "none": {"feature": None, "feature_weight": 0.0},
    "mse": {"feature": "mse", "feature_weight": 0.5},
    "projector": {"feature": "mse", "feature_weight": 2.0, "projector": "linear"},
    "softkd": {"feature": None, "feature_weight": 0.0, "alpha": 0.9},
    "softkd_mse": {"feature": "mse", "feature_weight": 0.5, "alpha": 0.9},
}
PLAIN = {"alpha": 0.0, "tau": 1.0, "projector": None, "project_equal": True, "target": "features", "wider": "refuse"}


def runs_of(*settings: str, errors: dict[str, float] | None = None) -> pd.DataFrame:
    """runs.csv of two seeds."""
    rows = []
    for strategy, objective in (setting.split("-") for setting in settings):
        for seed in range(2):
            of = {"run": f"{strategy}-{objective}-{seed}", "strategy": strategy, "objective": objective, "seed": seed}
            of |= {**PLAIN, **OBJECTIVES[objective], "blocks": '["last"]', "width": 24, "teacher_width": 96}
            rows.append(of | {"relative_feature_error": (errors or {}).get(objective, np.nan)})
    return pd.DataFrame(rows)


def encoding_of(runs: pd.DataFrame, probe: dict[str, float], **columns: object) -> pd.DataFrame:
    values = [probe[objective] for objective in runs["objective"]]
    return pd.DataFrame({"run": runs["run"], "width": 24, "rank": 24, "probe_error": values, **columns})


FLOORS = pd.DataFrame({"backbone": "teacher", "dims": range(1, 97), "shared": np.linspace(0.9, 0.0, 96)})
AT_24 = float(FLOORS["shared"].iloc[23])


@pytest.mark.parametrize(
    ("without", "reached", "floor", "expected"),
    [(0.8, 0.5, 0.2, 50), (14.0, 1.04, 0.0, -4), (14.0, 0.25, 0.0, 75), (0.5, 0.5, 0.1, 0), (0.6, 0.1, 0.1, 100)],
)
def test_the_way_begins_at_the_student_without_the_loss_or_at_a_map_of_zeros(without, reached, floor, expected):
    assert moved(without, reached, floor) == pytest.approx(expected)


def test_a_way_that_is_unknown_or_has_no_length_is_no_number():
    assert all(np.isnan(moved(*of)) for of in [(np.nan, 0.5, 0), (0.5, np.nan, 0), (0.5, 0.4, np.nan), (0.2, 0.2, 0.2)])


def test_a_run_is_compared_with_its_own_strategy_and_seed_without_the_loss():
    runs = runs_of("baseline-none", "baseline-mse", "baseline-softkd", "baseline-softkd_mse", "widen-none")
    probe = {"none": 0.9, "mse": 0.7, "softkd": 0.8, "softkd_mse": 0.6}
    encoding = encoding_of(runs, probe, probe_equal=0.95)
    rows = [
        (run, objective, own + 0.1 * seed, 0.0, own, 0.25, 0.125, 3.0)
        for run, setting, seed in zip(runs["run"], runs["objective"], runs["seed"], strict=True)
        for objective, own in ((name, {"none": 0.8, "softkd": 0.7}.get(setting, 0.3)) for name in ("mse", "softkd_mse"))
        if run.startswith("baseline")
    ]
    found = with_applied(runs, encoding, FLOORS, pd.DataFrame(rows, columns=list(MATCHING_COLUMNS)))
    assert tuple(found.columns[-len(APPLIED_COLUMNS) :]) == APPLIED_COLUMNS
    found = found.set_index("run")
    first, second = found.loc["baseline-mse-0"], found.loc["baseline-mse-1"]
    assert (first["own_without"], first["own_reached"], first["own_floor"]) == (0.8, 0.3, 0.0)
    assert first["own_moved"] == pytest.approx(100 * 0.5 / 0.8)
    assert second["own_moved"] == pytest.approx(100 * 0.5 / 0.9)  # its own seed's
    assert first["own_equal_moved"] == pytest.approx(100 * 0.5 / 0.55)
    assert (first["probe_without"], first["probe_floor"]) == (0.9, AT_24)
    assert first["probe_moved"] == pytest.approx(100 * 0.2 / (0.9 - AT_24))
    counted = int((FLOORS["shared"] > 0.01).sum()) + 1  # directions that hold 99 %
    assert first["probe_equal_floor"] == pytest.approx(1 - 24 / counted) and first["probe_equal_moved"] == 0
    assert (first["loss_share"], first["gradient_ratio"]) == (0.125, 3.0)
    joined = found.loc["baseline-softkd_mse-0"]  # compared with soft labels alone
    assert (joined["own_without"], joined["probe_without"]) == (0.7, 0.8)
    assert found.loc[["baseline-none-0", "baseline-softkd-1"], list(APPLIED_COLUMNS)].isna().all(axis=None)


def test_through_a_trained_projector_the_loss_is_the_best_projectors_error():
    runs = runs_of("baseline-none", "baseline-projector")
    encoding = encoding_of(runs, {"none": 0.9, "projector": 0.8})
    found = with_applied(runs, encoding, FLOORS, pd.DataFrame(columns=list(MATCHING_COLUMNS))).set_index("run")
    row = found.loc["baseline-projector-0"]
    assert row["own_moved"] == row["probe_moved"] == pytest.approx(100 * 0.1 / (0.9 - AT_24))


def test_without_a_student_without_the_loss_nothing_passes():
    runs = runs_of("baseline-mse", errors={"mse": 0.01})
    found = with_applied(runs, encoding_of(runs, {"mse": 0.3}), FLOORS)
    verdict, words = check(found, [("baseline", "mse")], ["own"], 50)
    assert verdict == UNCHECKED and "no run of baseline without the loss" in words


@pytest.mark.parametrize(("reached", "expected"), [(0.4, PASSED), (0.5, PASSED), (0.51, FAILED), (2.0, FAILED)])
def test_a_check_passes_at_half_of_the_way(reached, expected):
    runs = runs_of("baseline-none", "baseline-mse", errors={"none": 7.0, "mse": reached})
    found = with_applied(runs, encoding_of(runs, {"none": 0.9, "mse": 0.8}), FLOORS)
    verdict, words = check(found, [("baseline", "mse"), ("baseline", "none")], ["own"], 50)
    assert verdict == expected
    assert words == f"at w = 0.5 mse moved the features of baseline {100 - 100 * reached:.0f} % of the way"
    assert check(found, [("baseline", "none")], ["own"], 50) == ("", "")
    # What was not recorded does not pass, and what fails fails whatever is not known.
    verdict, words = check(found, [("baseline", "mse")], ["own", "own_equal"], 50)
    assert verdict == (UNCHECKED if expected == PASSED else FAILED)
    assert words.endswith(" of the way (every direction counted alike: an unknown part (not recorded))")


def test_the_recorded_study_says_what_its_tables_hold(root):
    """Numbers of an independent check of the study: relative errors, and 14 % of what a trained projector could do."""
    results = root / "reports/studies/cifar100_small/results"
    found = means(with_applied(*(read_table(results / f"{name}.csv") for name in ("runs", "encoding", "floor"))))
    assert found.loc[("baseline", "mse"), "own_reached"] == pytest.approx(1.04, abs=0.005)
    assert found.loc[("lift", "mse"), "own_reached"] == pytest.approx(1.37, abs=0.005)
    assert found.loc[("baseline", "mse"), "own_moved"] < 0
    projector = found.loc[("baseline", "projector")]
    expected = (0.508, 0.468, 0.231)
    assert tuple(projector[["own_without", "own_reached", "own_floor"]]) == pytest.approx(expected, abs=0.001)
    assert 14 <= projector["own_moved"] < 15
    assert found["own_equal_moved"].isna().all()


def test_runs_that_do_not_say_what_their_objective_was_have_empty_columns():
    runs = pd.DataFrame({"run": ["a-none-0"], "strategy": "a", "objective": "none", "seed": 0, "top1": 1.0})
    found = with_applied(runs, pd.DataFrame(), FLOORS)
    assert found[list(APPLIED_COLUMNS)].isna().all(axis=None) and len(found) == 1
