"""Experiments in a table: rows as `dvc.api.exp_show` gives them, what can be compared, and how wide it is."""

import sys

import pytest
from dvc.exceptions import DvcException

from stages.core.base.errors import UserError
from stages.tools import experiments

GIVEN = {
    **{"Experiment": None, "rev": "main", "typ": "baseline", "Created": "03:47 AM", "State": None, "Executor": None},
    **{"seeds": "[0, 1]", "strategy.names": "['baseline', 'lift', 'widen']", "objective.names": "['none', 'mse']"},
    **{"dataset.label": "digits", "recipe.lr": 0.003, "student.base.embed_dim": 48.0, "profile": "digits"},
    **{"top1.teacher": 96.44, "top1.baseline.none": 96.67, "top1.baseline.mse": 99.22, "top1.lift.none": 97.44},
    **{"top1.lift.mse": 96.89, "top1.widen.none": 96.33, "top1.widen.mse": 97.11, "counts.not measured": 240.0},
    **{"artifacts/teach": "0a1b", "stages/core/train": "2c3d"},
}
SIX = (
    "top1.baseline.none",
    "top1.baseline.mse",
    "top1.lift.none",
    "top1.lift.mse",
    "top1.widen.none",
    "top1.widen.mse",
)


def experiment(name, strategy, **changes):
    """An experiment of one strategy: DVC gives `None`, as text, for the metrics that it has not."""
    metrics = {key: GIVEN[key] if key.startswith(f"top1.{strategy}.") else "None" for key in SIX}
    head = {"Experiment": name, "rev": "0123456", "typ": "branch_commit", "Created": "04:01 AM"}
    return {**GIVEN, **metrics, **head, "strategy.names": f"['{strategy}']", **changes}


def queued(name, strategy):
    return experiment(name, strategy, State="Queued") | dict.fromkeys((*SIX, "top1.teacher"))


def workspace(**changes):
    return {**GIVEN, "rev": "workspace", "Created": None, **changes}


def column(rows, name):
    return [row[name] for row in rows]


def test_settings_stand_in_the_order_of_the_parameters():
    rows = experiments.table([workspace(), GIVEN])
    assert column(rows, "strategy") == ["baseline"] * 2 + ["lift"] * 2 + ["widen"] * 2
    assert column(rows, "objective") == ["none", "mse"] * 3
    assert column(rows, "top-1") == ["96.67", "99.22", "97.44", "96.89", "96.33", "97.11"]
    assert column(rows, "vs plain") == ["", "+2.5", "+0.8", "+0.2", "-0.3", "+0.4"]
    assert column(rows, "experiment") == ["main", *[""] * 5] and set(column(rows, "seeds")) == {"2"}


def test_an_experiment_without_students_is_one_row():
    rows = experiments.table([GIVEN, experiment("dims", "baseline", **{"grid.blocks": "[]", "top1.vit": 82.8})])
    assert column(rows, "experiment")[6:] == ["dims"]
    assert (rows[-1]["strategy"], rows[-1]["objective"], rows[-1]["seeds"], rows[-1]["top-1"]) == (
        *("no students", "", "0", ""),
    )


def test_a_workspace_is_shown_where_it_differs():
    rows = experiments.table([workspace(**{"top1.lift.none": 98.0}), GIVEN])
    assert [name for name in column(rows, "experiment") if name] == ["workspace", "main"]
    assert rows[2]["top-1"] == "98.00"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, ["-0.3", "+0.4"]),
        ({"profile": "mine", "analysis.truncation.points": 3.0}, ["-0.3", "+0.4"]),
        ({"seeds": "[0, 1, 2]"}, ["", ""]),
        ({"recipe.lr": 0.001}, ["", ""]),
        ({"student.base.embed_dim": 60.0}, ["", ""]),
        ({"dataset.label": "other"}, ["", ""]),
        ({"student.strategies.lift.model_args.lift_width": 64.0}, ["-0.3", "+0.4"]),
        ({"student.strategies.baseline.model_args.depth": 4.0}, ["", ""]),
    ],
)
def test_only_what_differs_in_strategy_and_objective_alone_is_compared(changes, difference):
    rows = experiments.table([GIVEN, experiment("agley-sins", "widen", **changes)])
    assert column(rows[6:], "vs plain") == difference


def test_a_queue_of_three_strategies_fits_into_80_columns():
    names = ("still-cyst", "uveal-snog", "herby-arks")
    three = [queued(name, strategy) for name, strategy in zip(names, ("baseline", "lift", "widen"), strict=True)]
    rows = experiments.table([workspace(), GIVEN, experiment("agley-sins", "widen"), *three])
    assert column(rows, "state")[6:] == ["done", "", *["queued", ""] * 3]
    assert column(rows[8:], "top-1") == [""] * 6 and column(rows[8:], "strategy")[::2] == ["baseline", "lift", "widen"]
    lines = experiments.text(rows, 80).splitlines()
    assert max(map(len, [*lines, *experiments.NOTES])) <= 80 and len(lines) == 2 + len(rows)
    assert lines[0].split() == [
        "experiment",
        "created",
        "state",
        "strategy",
        "objective",
        "seeds",
        "top-1",
        "vs",
        "plain",
    ]


def test_long_names_take_the_place_of_dispensable_columns():
    long = "softkd_orthogonal_projector"
    row = experiment("agley-sins", "lift_five_sixths", **{"objective.names": f"['{long}']"})
    row[f"top1.lift_five_sixths.{long}"] = 97.0
    rows = experiments.table([GIVEN, row])
    lines = experiments.text(rows, 80).splitlines()
    assert max(map(len, lines)) <= 80 and "created" not in lines[0] and "vs plain" in lines[0]
    assert lines[-1].startswith("agley-sins") and long in lines[-1] and "97.00" in lines[-1]


def test_a_grid_of_runs_says_which_seeds_each_setting_has():
    grid = {"grid.runs.0": "['widen-mse-0', 'lift-none-0']", "grid.runs.1": "['widen-mse-1']", "grid.runs.2": "None"}
    older = {"grid.runs.baseline-none-0.strategy": "baseline"}  # of a commit that listed runs in another way
    found = experiments.settings({**GIVEN, **grid, **older})
    assert found == {("widen", "mse"): [0, 1], ("lift", "none"): [0]}


def test_what_cannot_be_read_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments", "--commits", "0"])
    with pytest.raises(UserError, match="--commits 0 must be 1 or more"):
        experiments.main()

    def fail(**_):
        raise DvcException("no\nrepository")

    monkeypatch.setattr(experiments, "exp_show", fail)
    monkeypatch.setattr(sys, "argv", ["experiments"])
    with pytest.raises(UserError, match=r"^no repository; run this in the project's folder"):
        experiments.main()


def test_experiments_are_printed(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(experiments, "exp_show", lambda **options: asked.update(options) or [workspace(), GIVEN])
    monkeypatch.setattr(sys, "argv", ["experiments", "--commits", "3"])
    experiments.main()
    assert asked == {"num": 3} and "widen     mse            2  97.11      +0.4\n" in capsys.readouterr().out
