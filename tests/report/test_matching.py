"""The figure of what matching changed against how far it moved the features, beside plain numbers."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stages.core.evidence.questions import questions_table, read_questions
from stages.core.report import style
from stages.core.report.figures import matching

MOVED = {"baseline-mse": 20.0, "widen-mse": 70.0, "half-mse": 90.0, "baseline-gram": 60.0, "baseline-softkd_mse": 55.0}


@pytest.fixture
def register(root):
    return read_questions(root / "reports/reference")


@pytest.fixture
def runs(rng):
    settings = [*MOVED, "baseline-none", "widen-none", "half-none", "baseline-softkd", "lift-mse"]
    rows = []
    for setting in settings:
        strategy, objective = setting.split("-")
        alpha, plain = (0.9 if "softkd" in objective else 0.0), objective in ("none", "softkd")
        for seed in range(3):
            moved = np.nan if plain else MOVED.get(setting, 80.0)
            rows.append(
                {"run": f"{setting}-{seed}", "strategy": strategy, "objective": objective, "seed": seed}
                | {"top1": 40 + rng.normal(), "alpha": alpha, "tau": 1.0, "feature_weight": 0.0 if plain else 2.0}
                | {"feature": None if plain else objective.removeprefix("softkd_")}
                | {"own_moved": moved, "own_equal_moved": np.nan if objective == "gram" else moved - 10}
            )
    return pd.DataFrame(rows)


def test_every_mark_is_a_setting_with_its_gain_and_interval(runs, register):
    table = questions_table(runs, register)
    found = matching.gains(runs, table, register)
    settings = [f"{row.strategy}-{row.objective}" for row in found.itertuples()]
    assert set(settings) == set(MOVED)  # lift has no student without the loss: it is not drawn
    top1 = runs.groupby(["strategy", "objective"])["top1"].mean()
    for setting, row in zip(settings, found.to_dict("records"), strict=True):
        strategy, objective = setting.split("-")
        before = "softkd" if objective.startswith("softkd") else "none"
        assert row["moved"] == pytest.approx(MOVED[setting])
        assert row["gained"] == pytest.approx(top1[strategy, objective] - top1[strategy, before])
        (asked,) = table[table["contrast"] == f"{setting} − {strategy}-{before}"].to_dict("records")
        assert (row["low"], row["high"], row["checked"]) == (asked["low"], asked["high"], asked["check"])


def test_filled_marks_are_those_that_pass(runs, register):
    table = questions_table(runs, register)
    figure, caption = matching.matching(runs, table, register, ", by a weak teacher")
    colors = {name: look.color.lower() for name, look in style.looks(["baseline", "widen", "half"]).items()}
    marks = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    filled = {line.get_xdata()[0]: line.get_markerfacecolor() != "white" for line in marks}
    assert filled == {20.0: False, 70.0: True, 90.0: True, 60.0: True, 55.0: False}  # 55: 45 with every direction alike
    by_place = {line.get_xdata()[0]: to_hex(line.get_color()) for line in marks}
    assert (by_place[70.0], by_place[90.0], by_place[20.0]) == (colors["widen"], colors["half"], colors["baseline"])
    students, losses = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert set(students) == set(colors) and set(losses) == {"mse", "gram", "softkd_mse"}
    assert "each student, by a weak teacher (colour)" in caption and "3 of 5 pass the check (filled): 50 %" in caption
    assert "`mse` on `half` moved 90 % of the way, top-1 changed by " in caption and "because" not in caption
