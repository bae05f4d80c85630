"""Differences between settings: tests and intervals against simulation, and what is made of them."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.evidence.comparison import check_settings, correct_predictions, runs_table
from stages.core.evidence.differences import (
    DIFFERENCE_COLUMNS,
    DUNNETT,
    MCNEMAR,
    NO_INTERVAL,
    TUKEY,
    differences_table,
    family,
    summary_sentence,
    variance_warning,
)
from stages.core.evidence.simultaneous import dunnett, tukey
from stages.core.evidence.statistics import HIGHER, LOWER, NOT_SHOWN, bonferroni, mcnemar, paired_t
from stages.core.report.figures import comparison as figures_comparison
from stages.core.report.figures import cost as figures_cost
from stages.core.report.figures import distillation as figures_distillation
from stages.core.report.tables import distillation as tables


def runs(top1: dict[tuple[str, str], list[float]], widths: dict[str, int] | None = None) -> pd.DataFrame:
    """runs.csv of some settings, one value a seed."""
    return pd.DataFrame(
        [
            {
                "run": f"{strategy}-{objective}-{seed}",
                "strategy": strategy,
                "objective": objective,
                "seed": seed,
                "top1": value,
                "width": (widths or {}).get(strategy, 384),
                "teacher_width": 384,
            }
            for (strategy, objective), values in top1.items()
            for seed, value in enumerate(values)
        ]
    )


def test_the_p_of_paired_t_is_uniform_under_the_null_and_its_intervals_cover(rng):
    found = [paired_t(rng.normal(2.0, 0.5, size=3), 0.9) for _ in range(700)]
    assert abs(np.mean([one.low <= 2.0 <= one.high for one in found]) - 0.9) < 0.035
    p = [paired_t(rng.normal(0, 3, size=seeds), 0.95).p for seeds in (2, 3, 5) for _ in range(250)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_paired_t_is_scipys_and_the_test_and_the_interval_agree(rng):
    values = rng.normal(1, 1, size=6)
    found, other = paired_t(values, 0.95), stats.ttest_1samp(values, 0)
    assert found.p == pytest.approx(other.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval(0.95)))
    at_p = paired_t(values, 1 - found.p)  # the interval whose level is 1 − p just touches zero
    assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


def test_two_seeds_show_next_to_nothing_and_equal_differences_nothing():
    found = paired_t([1.0, 1.4], 0.95)
    assert found.high - found.low == pytest.approx(2 * 12.7062 * 0.2, rel=1e-4)  # t of one degree of freedom
    assert found.verdict == NOT_SHOWN
    equal = paired_t([97.3333 - 96.4444, 98.2222 - 97.3333], 0.95)
    assert equal.verdict == NOT_SHOWN and np.isnan(equal.low) and equal.difference == pytest.approx(0.8889, abs=1e-4)
    with pytest.raises(ValueError, match="two differences"):
        paired_t([1.0], 0.95)


@pytest.mark.parametrize("level", [0.95, bonferroni(11)])
@pytest.mark.parametrize(
    ("first_only", "second_only", "images"),
    [(0.05, 0.05, 450), (0.10, 0.04, 450), (0.012, 0.002, 450), (0.09, 0.08, 10000)],
)
def test_intervals_of_paired_accuracies_cover(first_only, second_only, images, level, rng):
    shares = [first_only, second_only, 1 - first_only - second_only]
    truth, samples = 100 * (first_only - second_only), 400
    found = [mcnemar(int(b), int(c), images, level) for b, c, _ in rng.multinomial(images, shares, size=samples)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    spread = 3.5 * np.sqrt(level * (1 - level) / samples)
    assert level - 0.004 - spread < covered < level + 0.02 + spread


def test_the_p_of_mcnemar_is_near_uniform_under_the_null_and_never_too_small(rng):
    draws = rng.multinomial(20000, [0.1, 0.1, 0.8], size=600)
    p = np.array([mcnemar(int(b), int(c), 20000, 0.95).p for b, c, _ in draws])
    for alpha in (0.01, 0.05, 0.2, 0.5, 0.8):
        spread = 3.5 * np.sqrt(alpha * (1 - alpha) / len(p))
        assert alpha - 0.03 - spread < (p <= alpha).mean() < alpha + spread  # exact tests err to the safe side
    assert mcnemar(0, 0, 100, 0.95).p == 1
    assert mcnemar(1, 9, 100, 0.95).p == pytest.approx(2 * (1 + 10) / 2**10)  # counted by hand


def test_mcnemar_is_antisymmetric_and_shows_what_is_plain():
    one, other = mcnemar(40, 10, 450, 0.99), mcnemar(10, 40, 450, 0.99)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.difference == pytest.approx(100 * 30 / 450)
    assert (one.verdict, other.verdict, mcnemar(12, 10, 450, 0.99).verdict) == (HIGHER, LOWER, NOT_SHOWN)


def test_bonferronis_intervals_cover_all_at_once(rng):
    level = bonferroni(6)
    assert level == pytest.approx(1 - 0.05 / 6)
    together = [
        all((one := paired_t(rng.normal(0, 1, size=4), level)).low <= 0 <= one.high for _ in range(6))
        for _ in range(400)
    ]
    assert 0.92 < np.mean(together) < 0.98


def test_every_comparison_of_the_family_is_made_once():
    settings = [(strategy, objective) for strategy in ("lift", "baseline", "widen") for objective in ("none", "mse")]
    pairs = family(settings)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) == 3 * 2 + 3 + 2
    assert (("lift", "none"), ("baseline", "none")) in pairs and (("widen", "mse"), ("baseline", "none")) in pairs
    assert all(pair[0] != ("baseline", "none") for pair in pairs)
    assert family([("lift", "mse")]) == []


def test_two_settings_in_blocks_are_the_paired_t():
    three = runs({("baseline", "none"): [70.0, 75.0, 80.0], ("lift", "none"): [71.0, 76.1, 80.9]})
    (row,) = differences_table(three, {}).to_dict("records")
    assert (row["method"], row["seeds"], row["comparisons"], row["freedom"]) == (DUNNETT, 3, 1, 2)
    assert row["difference"] == pytest.approx(1.0) and row["verdict"] == HIGHER  # unpaired it would show nothing
    assert stats.ttest_ind([71.0, 76.1, 80.9], [70.0, 75.0, 80.0]).pvalue > 0.5
    for key in ("difference", "low", "high", "p"):
        assert row[key] == pytest.approx(row[f"paired_{key}"], rel=1e-6)
    assert row["level"] == pytest.approx(0.95)


def test_the_pooled_variance_makes_intervals_that_the_paired_t_does_not(rng):
    """Six settings and two seeds: each interval is Tukey's or Dunnett's by the analysis of variance of the table."""
    names = [(strategy, objective) for strategy in ("baseline", "lift", "widen") for objective in ("none", "mse")]
    values = 90 + 0.5 * rng.normal(size=(6, 2)) + 4 * rng.normal(size=2)
    values[1] += 6  # baseline-mse
    table = differences_table(runs({name: list(of) for name, of in zip(names, values, strict=True)}), {})
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    sd = np.sqrt((residual**2).sum() / 5)
    assert tuple(table) == DIFFERENCE_COLUMNS and table["residual_sd"].to_numpy() == pytest.approx(sd)
    halves = {TUKEY: tukey(6, 5) * sd, DUNNETT: dunnett(0.5 + 0.5 * np.eye(5), 5) * sd}  # an error of √(2/2)
    for row in table.to_dict("records"):
        one, other = (
            values[names.index((row[f"{of}strategy"], row[f"{of}objective"]))].mean() for of in ("", "against_")
        )
        half = halves[row["method"]]
        assert (row["low"], row["high"]) == pytest.approx((one - other - half, one - other + half), rel=1e-5)
        assert (row["method"] == DUNNETT) == (
            row["against_strategy"] == "baseline" and row["against_objective"] == "none"
        )
        assert row["comparisons"] == {TUKEY: 15, DUNNETT: 5}[row["method"]]
        assert row["level"] == pytest.approx(2 * stats.t.cdf(half / sd, 5) - 1, rel=1e-6)
        assert row["paired_high"] - row["paired_low"] > 3 * (row["high"] - row["low"]) or abs(row["paired_p"]) < 0.01
    (gain,) = table[(table["strategy"] == "baseline") & (table["objective"] == "mse")].to_dict("records")
    assert gain["verdict"] == HIGHER and not gain["paired_low"] > 0
    text = summary_sentence(table)
    assert f"2 seeds as blocks, residual standard deviation {sd:.2f} points on 5 degrees of freedom" in text
    assert "Dunnett's for the 5 from baseline-none, Tukey's for all 15 pairs)." in text


def test_settings_may_have_more_seeds_than_others():
    values = {
        ("baseline", "none"): [70.0, 72.0, 71.0, 75.0],
        ("baseline", "mse"): [70.5, 72.1],
        ("lift", "none"): [71.0],
    }
    table = differences_table(runs(values), {})
    rows = {(row["strategy"], row["objective"]): row for row in table.to_dict("records")}
    assert {setting: row["seeds"] for setting, row in rows.items()} == {("baseline", "mse"): 2, ("lift", "none"): 1}
    assert set(table["freedom"]) == {1} and table["low"].notna().all()
    assert rows["baseline", "mse"]["difference"] == pytest.approx(0.3)  # of the seeds that both have
    assert rows["lift", "none"]["difference"] == pytest.approx(1.0 - 0.5 / 3 + 0.1 / 3 + 0.4 / 3, abs=0.3)
    assert np.isnan(rows["lift", "none"]["paired_low"]) and "1 to 2 seeds as blocks" in summary_sentence(table)


def test_without_a_degree_of_freedom_there_is_no_interval_over_seeds():
    right = {"baseline-none-0": np.arange(200) < 150, "lift-none-0": np.arange(200) < 180}
    single = runs({("baseline", "none"): [75.0], ("lift", "none"): [90.0]})
    (row,) = differences_table(single, right).to_dict("records")
    assert (row["method"], row["difference"], row["verdict"]) == (MCNEMAR, 15.0, HIGHER)
    assert np.isnan(row["paired_low"]) and np.isnan(row["residual_sd"])
    assert "by" in figures_comparison.differences(pd.DataFrame([row]), single)[1].partition("Shown:")[2]
    assert "one run a setting, paired over the validation images" in summary_sentence(pd.DataFrame([row]))
    with pytest.raises(UserError, match="different images"):
        differences_table(single, right | {"lift-none-0": right["lift-none-0"][:-1]})

    apart = runs({("baseline", "none"): [70.0, 72.0], ("lift", "none"): [71.0, 73.0]})
    apart.loc[apart["strategy"] == "lift", "seed"] += 5
    table = differences_table(apart, {})
    assert (table["method"][0], table["verdict"][0], table["difference"][0]) == (NO_INTERVAL, NOT_SHOWN, 1.0)
    assert "for 1 there is no interval: too few seeds in common (no degree of freedom" in summary_sentence(table)


def test_settings_that_no_seed_connects_have_no_interval_beside_those_that_have():
    values = {("baseline", "none"): [70.0, 72.0], ("baseline", "mse"): [70.5, 72.1], ("lift", "none"): [71.0, 73.0]}
    table = runs(values)
    table.loc[table["strategy"] == "lift", "seed"] += 5
    rows = {(row["strategy"], row["objective"]): row for row in differences_table(table, {}).to_dict("records")}
    assert rows["baseline", "mse"]["method"] == DUNNETT and rows["baseline", "mse"]["low"] < 0.3
    assert rows["lift", "none"]["method"] == NO_INTERVAL and np.isnan(rows["lift", "none"]["low"])


def test_clearly_different_variances_are_warned_of(rng):
    quiet = {
        (strategy, "none"): list(80 + 0.1 * rng.normal(size=3)) for strategy in ("baseline", "lift", "widen", "half")
    }
    assert variance_warning(differences_table(runs(quiet), {})) == ""
    loud = quiet | {("uniform", "none"): [70.0, 80.0, 90.0]}
    warning = variance_warning(differences_table(runs(loud), {}))
    assert warning.startswith(" Warning: variances clearly differ") and "uniform-none spreads most" in warning


def test_the_figure_ends_where_the_intervals_end():
    of_wide = runs({("baseline", "none"): [70.0, 72.0], ("lift", "none"): [71.0, 76.0]})
    wide = differences_table(of_wide, {})
    low, high = figures_comparison.differences(wide, of_wide)[0].axes[0].get_xlim()
    assert low < wide["low"].min() < low + 0.06 * (high - low) and wide["high"].max() < high
    of_narrow = runs({("baseline", "none"): [70.0, 71.0, 72.0], ("lift", "none"): [75.0, 76.1, 77.0]})
    low, high = figures_comparison.differences(differences_table(of_narrow, {}), of_narrow)[0].axes[0].get_xlim()
    assert -0.5 < low < 0 and wide["low"].notna().all() and high < 6


def test_the_sentence_says_what_the_intervals_show():
    table = differences_table(runs({("baseline", "none"): [70.0, 72.0], ("lift", "none"): [71.0, 72.1]}), {})
    sentence = summary_sentence(table)
    assert "none is shown (0 higher, 0 lower); for 1 the interval holds zero: no difference shown" in sentence
    assert "on 1 degree of freedom" in sentence
    assert "nothing to compare" in summary_sentence(differences_table(runs({("baseline", "none"): [70.0]}), {}))
    (row,) = tables.differences(table)
    assert row["verdict"] == NOT_SHOWN and row["setting"] == "lift-none" and row["minus"] == "baseline-none"


def test_without_any_spread_there_is_no_interval():
    settings = {("baseline", "none"): [70.0, 72.0], ("lift", "none"): [71.0, 73.0], ("widen", "none"): [71.5, 73.5]}
    table = differences_table(runs(settings), {})
    text = summary_sentence(table)
    assert "Of 3 differences in top-1, none is shown (0 higher, 0 lower)" in text
    assert (
        "for 0 the interval holds zero: no difference shown; for 3 there is no interval: the seeds differ alike" in text
    )
    assert table["low"].isna().all() and set(table["verdict"]) == {NOT_SHOWN}
    _, caption = figures_comparison.differences(table, runs(settings))
    assert "3 without a line: there is no interval." in caption and "Shown:" not in caption
    assert [row["interval"] for row in tables.differences(table)].count("–") == 3
    # One setting that differs is enough for a variance, and all have intervals; the paired t of two alike has none.
    other = differences_table(runs(settings | {("widen", "none"): [71.0, 72.4]}), {})
    assert other["low"].notna().all() and other["paired_low"].isna().sum() == 1
    assert "there is no interval" not in summary_sentence(other)


WIDTHS = {"baseline": 192, "lift_256": 256, "lift": 384}
TEACHER = {"top1": 80.0, "parameters": 1000, "flops": 2000}


def texts(top1: dict[str, list[float]]) -> dict[str, str]:
    """Every caption about trained students, where each strategy reached these values, one a seed."""
    table = runs({(strategy, "none"): values for strategy, values in top1.items()}, WIDTHS)
    table = table.assign(relative_feature_error=table["top1"] / 100, parameters=table["width"], flops=table["width"])
    epochs = pd.concat([table.assign(epoch=epoch, top1=table["top1"] - 5 + epoch) for epoch in range(5)])
    differences = differences_table(table, {})
    drawn = {
        "accuracy": figures_distillation.accuracy(table, TEACHER, differences),
        "feature_error": figures_distillation.feature_error(table),
        "curves": figures_distillation.curves(epochs),
        "cost": figures_cost.cost(table, TEACHER),
        "width": figures_comparison.width(table),
        "differences": figures_comparison.differences(differences, table),
    }
    return {name: caption for name, (_, caption) in drawn.items()}


def test_captions_tell_no_order_that_no_interval_shows():
    values = [[75.0, 75.5], [75.4, 75.1], [75.9, 75.3]]
    found = [texts(dict(zip(WIDTHS, order, strict=True))) for order in permutations(values)]
    for name, caption in found[0].items():
        assert {one[name] for one in found} == {caption}, name  # whichever student reached most, the text is the same
    assert "teacher's width, 384" in found[0]["width"] and "192, 256, 384" in found[0]["width"]


def test_captions_of_ties_tell_nothing_but_the_tie():
    tied = texts({strategy: [75.0, 75.5] for strategy in WIDTHS})
    assert "for 3 there is no interval: the seeds differ alike" in tied["accuracy"]
    assert "The means are 75.25 %" in tied["accuracy"] and "Shown:" not in tied["differences"]
    table = differences_table(runs({(strategy, "none"): [75.0, 75.5] for strategy in WIDTHS}, WIDTHS), {})
    rows = tables.differences(table)
    assert {(row["points"], row["interval"], row["verdict"]) for row in rows} == {("+0.00", "–", NOT_SHOWN)}


def test_captions_tell_the_order_that_an_interval_shows():
    low, high = [70.0, 71.0, 72.0, 73.0], [75.0, 76.1, 77.0, 78.0]
    up = texts({"baseline": low, "lift": high})["differences"]
    down = texts({"baseline": high, "lift": low})["differences"]
    assert "lift-none is higher than baseline-none by" in up and "lower" not in up.partition("Shown:")[2]
    assert "lift-none is lower than baseline-none by" in down and "higher" not in down.partition("Shown:")[2]


def test_predictions_that_are_not_the_runs_are_refused(tmp_path):
    truth = np.array([0, 0, 1, 1])
    write_npy(tmp_path / "lift-none-0/predictions.npy", np.array([0, 1, 1, 1]))
    one = runs({("lift", "none"): [75.0]})
    folders = {"lift-none-0": tmp_path / "lift-none-0"}
    correct = correct_predictions(one, folders, truth)
    assert correct["lift-none-0"].tolist() == [True, False, True, True]
    with pytest.raises(UserError, match=r"predictions\.npy does not fit"):
        correct_predictions(one.assign(top1=50.0), folders, truth)
    write_npy(tmp_path / "lift-none-0/predictions.npy", np.array([0, 1, 1]))
    with pytest.raises(UserError, match=r"predictions\.npy does not fit"):
        correct_predictions(one, folders, truth)


def test_seeds_of_different_settings_are_not_compared_as_one():
    names = {
        "strategy": "lift",
        "objective": "mse",
        "model_args": '{"lift_width": 96}',
        "feature_weight": 0.2,
        "target": "features",
        "lr": 0.1,
    }
    table = runs_table([{"run": f"lift-mse-{seed}", **names, "seed": seed} for seed in range(3)])
    check_settings(table)
    check_settings(pd.concat([table, table.assign(strategy="widen", feature_weight=20.0)]))  # a weight of its own
    for column, value, of in (
        ("feature_weight", 1.0, "lift-mse"),
        ("target", "principal", "mse"),
        ("model_args", '{"lift_width": 64}', "lift"),
        ("lr", 0.2, "the recipe"),
    ):
        changed = table.astype({column: object})
        changed.loc[1, column] = value
        with pytest.raises(
            UserError, match=f"^{of}: {column} is .* in lift-mse-0 and .* in lift-mse-1, and runs of one"
        ):
            check_settings(changed)


@pytest.mark.parametrize("teacher", [60.0, 76.0, 99.9])
def test_the_teachers_line_is_within_the_panel_of_accuracy(teacher):
    table = runs({(strategy, "none"): [75.0, 75.5] for strategy in WIDTHS}, WIDTHS)
    figure, _ = figures_distillation.accuracy(table, {"top1": teacher}, differences_table(table, {}))
    low, high = figure.axes[0].get_ylim()
    assert low < teacher < high <= 100.2
