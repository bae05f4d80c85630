"""Registered questions: every printed interval by plain formulas, checks, looks, and what cannot be judged."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from stages.core.base.errors import UserError
from stages.core.evidence.applied import with_applied
from stages.core.evidence.questions import (
    CONTRARY,
    FILE,
    NOT_RUN,
    NOT_SHOWN,
    QUESTION_COLUMNS,
    SHOWN,
    UNCHECKED,
    UNJUDGED,
    WEAK,
    questions_table,
    read_questions,
)
from stages.core.evidence.results import read_table

SETTINGS = ("baseline-none", "baseline-mse", "widen-none", "widen-mse", "half-none", "half-mse", "uniform-none")


@pytest.fixture
def register(root):
    return read_questions(root / "reports/reference")


def a_study(rng, means: dict[str, float] | None = None, *, seeds: int = 3, moved: float = 80.0) -> pd.DataFrame:
    """runs.csv of settings with these means, in complete blocks; strategies and seeds have luck in common."""
    rows = []
    luck = {(strategy, seed): 0.3 * rng.normal() for strategy in "bwhu" for seed in range(seeds)}
    for setting in SETTINGS:
        strategy, objective = setting.split("-")
        feature = None if objective == "none" else "mse"
        for seed in range(seeds):
            top1 = 40 + (means or {}).get(setting, 0.0) + seed + luck[strategy[0], seed] + 0.2 * rng.normal()
            row = {"run": f"{setting}-{seed}", "strategy": strategy, "objective": objective, "seed": seed, "top1": top1}
            row |= {"feature": feature, "feature_weight": 0.0 if feature is None else 2.0}
            for kind in ("own", "own_equal"):
                row |= {f"{kind}_{part}": np.nan if feature is None else 0.5 for part in ("without", "reached")}
                row[f"{kind}_moved"] = np.nan if feature is None else moved
            rows.append(row)
    return pd.DataFrame(rows)


def test_every_printed_interval_by_plain_formulas(rng, register):
    """Sums of squares of complete blocks, Satterthwaite's freedom and Bonferroni's t, written out."""
    runs = a_study(rng, {"widen-none": 9.0, "half-mse": 4.0})
    found = questions_table(runs, register).set_index("question")
    seeds, count = 3, len(SETTINGS)
    table = runs["top1"].to_numpy().reshape(count, seeds)
    groups = {"b": [0, 1], "w": [2, 3], "h": [4, 5], "u": [6]}
    squares = sum(
        ((table[rows] - table[rows].mean(1, keepdims=True) - table[rows].mean(0) + table[rows].mean()) ** 2).sum()
        for rows in groups.values()
    )
    freedom = 3 * (seeds - 1)
    error = squares / freedom
    residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    plots_freedom = (len(groups) - 1) * (seeds - 1)
    plots = ((residual**2).sum() - squares) / plots_freedom
    share = (count - sum(len(rows) ** 2 for rows in groups.values()) / count) / (len(groups) - 1)
    judged = found[found["low"].notna()]
    assert len(judged) > 8 and set(judged["comparisons"]) == {len(judged)}
    place = {setting: row for row, setting in enumerate(SETTINGS)}
    for question in register.questions:
        row = found.loc[question.name]
        names = {"-".join(setting): weight for setting, weight in question.weights.items()}
        if not set(names) <= set(SETTINGS):
            assert row["verdict"] == NOT_RUN and np.isnan(row["difference"])
            continue
        weights = np.zeros(count)
        weights[[place[name] for name in names]] = list(names.values())
        of_error = (weights**2).sum() / seeds
        of_plots = sum(weights[rows].sum() ** 2 for rows in groups.values()) / seeds
        first, second = (of_error - of_plots / share) * error, of_plots / share * plots
        if not of_plots or plots <= error:
            first, second = of_error * error, 0.0
        own = (first + second) ** 2 / (first**2 / freedom + second**2 / plots_freedom)
        half = stats.t.ppf(1 - 0.025 / len(judged), own) * np.sqrt(first + second)
        estimate = weights @ table.mean(1)
        assert row["difference"] == pytest.approx(estimate)
        assert (row["low"], row["high"]) == pytest.approx((estimate - half, estimate + half))
        assert row["freedom"] == pytest.approx(own)
        by_seed = weights @ table
        half = stats.t.ppf(1 - 0.025 / len(judged), seeds - 1) * stats.sem(by_seed)
        assert (row["paired_low"], row["paired_high"]) == pytest.approx((estimate - half, estimate + half))
        assert (row["seeds"], row["planned_seeds"]) == (3, 3)


def test_the_intervals_of_the_recorded_study_are_known(root, register):
    """Variances of an independent check: 0.282 within strategies on 36 degrees of freedom, F(12, 36) = 3.42."""
    results = root / "reports/studies/cifar100_small/results"
    runs = with_applied(*(read_table(results / f"{name}.csv") for name in ("runs", "encoding", "floor")))
    found = questions_table(runs, register).set_index("question")
    half = found.loc["half_mse"]
    assert half["difference"] == pytest.approx(3.89) and half["freedom"] == 36
    assert half["error"] == pytest.approx(0.282 / np.sqrt(2), abs=0.0005)
    within, share = 0.28223**2, 3.17647
    plots = 3.42432 * within
    error = np.sqrt((2 - 2 / share) * within / 4 + 2 / share * plots / 4)
    assert found.loc["size", "error"] == pytest.approx(error, rel=1e-4)
    losses = found[found["contrast"].str.contains("mse|gram|projector") & found["difference"].notna()]
    assert set(losses["verdict"]) == {WEAK, UNCHECKED}  # none was applied strongly enough, or was measured to be


@pytest.mark.parametrize(("by", "verdict"), [(5.0, SHOWN), (-5.0, CONTRARY), (0.0, NOT_SHOWN)])
def test_a_verdict_is_read_off_the_interval(by, verdict, rng, register):
    found = questions_table(a_study(rng, {"half-mse": by}), register).set_index("question")
    row = found.loc["half_mse"]
    assert row["verdict"] == verdict and row["difference"] == pytest.approx(by, abs=0.6)
    assert row["moved"].startswith("at w = 2 mse moved the features of half 80 % of the way (every")


@pytest.mark.parametrize(("moved", "verdict"), [(49.0, WEAK), (np.nan, UNCHECKED)])
def test_nothing_is_said_of_a_loss_that_did_not_move_the_features(moved, verdict, rng, register):
    found = questions_table(a_study(rng, {"half-mse": 9.0}, moved=moved), register).set_index("question")
    for name in ("half_mse", "half_by_loss", "widen_under_mse"):
        assert found.loc[name, "verdict"] == verdict and found.loc[name, "reason"]
    assert found.loc["size", "verdict"] in (SHOWN, CONTRARY, NOT_SHOWN)  # of labels alone


def test_one_seed_is_not_judged_and_says_why(rng, register):
    found = questions_table(a_study(rng, seeds=1), register).set_index("question")
    row = found.loc["size"]
    assert row["verdict"] == UNJUDGED and row["reason"] == "one seed: how far seeds differ is unknown"
    assert np.isfinite(row["difference"]) and np.isnan(row["low"])
    assert found.loc["target", "reason"] == "no run of baseline-principal_mse"


def test_without_any_run_every_question_stands(register):
    runs = pd.DataFrame(columns=["run", "strategy", "objective", "seed", "top1", "feature"])
    found = questions_table(runs, register)
    assert tuple(found) == QUESTION_COLUMNS and set(found["verdict"]) == {NOT_RUN}
    assert len(found) == len(register.questions)


def test_a_head_that_does_not_read_the_matched_tokens_is_named(rng, register):
    runs = a_study(rng)
    assert set(questions_table(runs, register)["unread"].dropna()) == {""}  # where the runs do not say
    runs["reads_matched_tokens"] = runs["strategy"] == "half"
    found = questions_table(runs, register).set_index("question")
    assert found.loc["half_by_loss", "unread"] == "baseline" and found.loc["half_mse", "unread"] == ""


def test_the_register_asks_what_was_to_be_asked(register):
    settings = {"-".join(setting) for question in register.questions for setting in question.weights}
    strategies = {name.partition("-")[0] for name in settings}
    assert strategies == {"baseline", "lift", "widen", "uniform", "half", "pooled", "widen_pooled"}
    assert {question.about for question in register.questions} == {
        *("width", "reading", "target", "projector", "basis", "size", "soft labels", "half")
    }
    gained = {question.contrast for question in register.questions if len(question.pairs) == 2}
    for strategy in ("widen", "lift", "pooled", "widen_pooled", "half"):
        assert f"[{strategy}-mse − {strategy}-none] − [baseline-mse − baseline-none]" in gained
    assert all(sum(question.weights.values()) == 0 for question in register.questions)
    assert register.looks["cifar100_small"] == [2, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [["a-none"]]}, "pairs must be one pair"),
        ({"pairs": [["a-none", "b"]]}, "b is no setting; write STRATEGY-OBJECTIVE"),
        ({"expected": "up"}, r"expected must be \+ or -"),
        ({"checks": ["felt"]}, "unknown check felt"),
        ({"name": "size"}, "two questions are called size"),
        ({"asks": None, "pairs": None}, "not what its first lines explain"),
    ],
)
def test_an_entry_that_is_no_question_is_one_line(change, message, tmp_path, root):
    content = yaml.safe_load((root / "reports/reference" / FILE).read_text())
    content["questions"][0] |= change
    (tmp_path / FILE).write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path)


def test_a_register_that_is_missing_is_one_line(tmp_path, root):
    with pytest.raises(UserError, match="is missing; restore it"):
        read_questions(tmp_path)
    shutil.copy(root / "reports/reference" / FILE, tmp_path)
    assert read_questions(tmp_path).questions
