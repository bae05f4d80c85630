"""The pairs that separate the explanations: what is read off a difference, and what is not."""

import numpy as np
import pandas as pd
import pytest

from stages.core.evidence.controls import CONTROL_COLUMNS, CONTROLS, NOT_RUN, controls_table
from stages.core.evidence.differences import DUNNETT, TUKEY, differences_table
from stages.core.evidence.statistics import HIGHER, LOWER, NOT_SHOWN
from stages.core.report.figures import comparison as figures
from stages.core.report.tables import distillation as tables


def trained(means: dict[tuple[str, str], float], rng: np.random.Generator) -> pd.DataFrame:
    """runs.csv of settings with these mean accuracies, three seeds, errors of 0.1 points."""
    rows = [
        {"run": f"{strategy}-{objective}-{seed}", "strategy": strategy, "objective": objective, "seed": seed}
        | {"top1": mean + 2 * seed + 0.1 * rng.normal()}
        for (strategy, objective), mean in means.items()
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


EVERY = dict.fromkeys([setting for control in CONTROLS for setting in (control.first, control.second)], 50.0)


def test_every_control_has_a_row_whether_run_or_not(rng):
    some = {("baseline", "mse"): 50.0, ("baseline", "projector"): 52.0, ("lift", "none"): 50.0}
    table = controls_table(differences_table(trained(some, rng), {}))
    assert tuple(table) == CONTROL_COLUMNS and len(table) == len(CONTROLS)
    assert (table["verdict"] != NOT_RUN).tolist() == [
        {control.first, control.second} <= set(some) for control in CONTROLS
    ]
    assert set(table[table["verdict"] == NOT_RUN]["reading"]) == {"not run, and nothing is shown"}
    assert (controls_table(differences_table(trained({("lift", "none"): 50.0}, rng), {}))["verdict"] == NOT_RUN).all()


@pytest.mark.parametrize(("by", "verdict"), [(3.0, HIGHER), (-3.0, LOWER)])
def test_a_control_reads_what_its_interval_shows(by, verdict, rng):
    for control in CONTROLS:
        differences = differences_table(trained(EVERY | {control.first: 50.0 + by}, rng), {})
        table = controls_table(differences)
        row = table.iloc[CONTROLS.index(control)]
        assert row["verdict"] == verdict and row["difference"] == pytest.approx(by, abs=0.5)
        assert row["reading"] == f"shown: {control.higher if by > 0 else control.lower}"
        (same,) = differences[
            (differences["strategy"] == control.first[0])
            & (differences["objective"] == control.first[1])
            & (differences["against_strategy"] == control.second[0])
            & (differences["against_objective"] == control.second[1])
        ].to_dict("records")
        assert (same["low"], same["high"]) == (row["low"], row["high"])
        assert same["method"] in (TUKEY, DUNNETT)


def test_where_nothing_is_shown_the_reading_says_how_much_may_be(rng):
    table = controls_table(differences_table(trained(EVERY, rng), {}))
    for row, told in zip(table.to_dict("records"), tables.controls(table), strict=True):
        assert row["verdict"] == NOT_SHOWN
        assert f"{-row['low']:.2f} points worse or {row['high']:.2f} better" in told["what it shows"]
        assert told["interval"] == f"{row['low']:+.2f} to {row['high']:+.2f}"
    _, caption = figures.controls(table)
    assert f"{len(CONTROLS)} of {len(CONTROLS)} were run, none of them shows a difference" in caption
    alone = {("half", "none"): 50.0, ("half", "mse"): 53.0}
    _, caption = figures.controls(controls_table(differences_table(trained(alone, rng), {})))
    assert f"1 of {len(CONTROLS)} were run, 1 of them shows a difference" in caption
