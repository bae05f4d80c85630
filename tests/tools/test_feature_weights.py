import sys

import pandas as pd
import pytest

from stages.core.base.errors import UserError
from stages.core.base.files import write_json
from stages.core.config.schema import Objective
from stages.paths import MANIFEST, RESULTS
from stages.tools import feature_weights

MSE = Objective(alpha=0.0, tau=1.0, feature="mse", feature_weight=0.0)
FEATURES = {"mse": {}, "projector": {"projector": "linear"}, "none": {"feature": None}}


def run(strategy, loss, weight, top1, seed=0):
    name = f"{loss}_w{weight:g}".replace(".", "_") if weight else loss
    objective = MSE.model_copy(update={"feature_weight": weight, **FEATURES[loss]}).model_dump()
    return {"strategy": strategy, "objective": name, "seed": seed, "top1": top1, **objective, "blocks": '["last"]'}


SWEEP = [
    *(run("baseline", "none", 0.0, top1, seed) for seed, top1 in enumerate((30.0, 32.0))),
    *(run("baseline", "mse", weight, top1) for weight, top1 in ((0.2, 31.0), (2.0, 33.0), (20.0, 33.0), (200.0, 20.0))),
    *(run("baseline", "projector", weight, top1) for weight, top1 in ((0.2, 31.0), (2.0, 30.0))),
    *(run("lift", "mse", weight, top1) for weight, top1 in ((0.2, 31.0), (2.0, 33.0), (20.0, 35.0), (200.0, 36.0))),
    *(run("widen", "mse", 2.0, top1, seed) for seed, top1 in enumerate((40.0, 41.0))),
]


def test_the_best_weight_of_each_strategy_and_loss_is_chosen_and_ends_are_named():
    rows = feature_weights.sweep(pd.DataFrame(SWEEP)).set_index(["strategy", "objective", "feature_weight"])
    assert set(rows[rows["chosen"]].index) == {
        ("baseline", "mse", 2.0),  # the smaller of two that are equal
        ("baseline", "projector", 0.2),
        ("lift", "mse", 200.0),
    }
    assert rows["end"][rows["end"] != ""].to_dict() == {
        ("baseline", "projector", 0.2): "smallest",
        ("lift", "mse", 200.0): "largest",
    }
    assert rows["gain"]["baseline", "mse", 2.0] == 2.0  # from the mean of two seeds
    assert rows["gain"].isna()["lift"].all()  # nothing to compare with
    assert (rows.loc[("widen", "mse", 2.0), ["seeds", "top1"]] == [2, 40.5]).all()


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RESULTS.mkdir(parents=True)
    pd.DataFrame(SWEEP).to_csv(RESULTS / "runs.csv", index=False)
    write_json(MANIFEST, {"dataset": "images, held-out part", "held_out": 0.1})
    monkeypatch.setattr(sys, "argv", ["feature_weights", "--out", "sweep.csv"])
    return tmp_path


def test_the_command_prints_the_table_the_ends_and_what_to_set(results, capsys):
    feature_weights.main()
    out = capsys.readouterr().out
    assert "| baseline | mse | 2 | 1 | 33.00 | +2.00 | yes |  |" in out
    assert "lift, mse: the best weight, 200, is the largest of the sweep; widen it" in out
    assert out.endswith("baseline: {feature_weights: {mse: 2, projector: 0.2}}\nlift: {feature_weights: {mse: 200}}\n")
    assert len(pd.read_csv(results / "sweep.csv")) == 11


def test_what_cannot_choose_is_one_line(results):
    pd.DataFrame(SWEEP[-2:]).to_csv(RESULTS / "runs.csv", index=False)
    with pytest.raises(UserError, match="no feature loss with several weights; run grid=weights first"):
        feature_weights.main()
    (RESULTS / "runs.csv").unlink()
    with pytest.raises(UserError, match="is missing; run grid=weights first"):
        feature_weights.main()
    write_json(MANIFEST, {"dataset": "images"})
    with pytest.raises(UserError, match=r"must not choose a weight; run the sweep with dataset\.held_out=0\.1"):
        feature_weights.main()
