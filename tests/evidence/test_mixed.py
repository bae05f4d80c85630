"""Strategy × seed as a random effect: a textbook's split-plot experiment, plain formulas, and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from stages.core.evidence.mixed import Mixed

# Yates (1935), the oats of Rothamsted, as in R's MASS: yields of four amounts of nitrogen, by block and variety.
VICTORY = [(111, 130, 157, 174), (61, 91, 97, 100), (68, 64, 112, 86), (74, 89, 81, 122), (62, 90, 100, 116)]
VICTORY += [(53, 74, 118, 113)]
GOLDEN_RAIN = [(117, 114, 161, 141), (70, 108, 126, 149), (60, 102, 89, 96), (64, 103, 132, 133), (80, 82, 94, 126)]
GOLDEN_RAIN += [(89, 82, 86, 104)]
MARVELLOUS = [(105, 140, 118, 156), (96, 124, 121, 144), (89, 129, 132, 124), (70, 89, 104, 117), (63, 70, 109, 99)]
MARVELLOUS += [(97, 99, 119, 121)]
OATS = {"Victory": VICTORY, "Golden rain": GOLDEN_RAIN, "Marvellous": MARVELLOUS}


def oats() -> Mixed:
    rows = [
        ((variety, str(nitrogen)), block, value)
        for variety, blocks in OATS.items()
        for block, values in enumerate(blocks)
        for nitrogen, value in enumerate(values)
    ]
    return Mixed(*zip(*rows, strict=True))


def test_the_mean_squares_of_a_textbooks_split_plots():
    """Analysis of variance in Venables and Ripley, Modern Applied Statistics with S, section 10.2."""
    model = oats()
    assert (model.between_freedom, model.within_freedom) == (10, 45)
    assert (model.between, model.within) == pytest.approx((601.3, 177.1), abs=0.05)


def test_the_textbooks_degrees_of_freedom_by_satterthwaite():
    """Two varieties at one amount of nitrogen: 2 [(b − 1) E_b + E_a] / (r b), Cochran and Cox, Experimental Designs."""
    model = oats()
    found = model.contrast({("Golden rain", "0"): 1, ("Marvellous", "0"): -1})
    assert (found.error, found.freedom) == pytest.approx((9.715, 30.23), abs=0.005)  # as R's emmeans gives them
    within = model.contrast({("Golden rain", "1"): 1, ("Golden rain", "0"): -1})
    assert (within.error, within.freedom) == pytest.approx((np.sqrt(2 * 177.08 / 6), 45), abs=0.005)
    whole = {("Golden rain", str(n)): 0.25 for n in range(4)} | {("Marvellous", str(n)): -0.25 for n in range(4)}
    found = model.contrast(whole)  # a contrast of whole plots alone
    assert (found.error, found.freedom) == pytest.approx((np.sqrt(2 * 601.33 / 24), 10), abs=0.005)


def simulated(rng, cells, of_plots: float) -> tuple[list[tuple[str, str]], list[int], np.ndarray]:
    """Settings, seeds and values of runs whose settings have mean 0."""
    plots = {plot: of_plots * rng.normal() for plot in {(strategy, seed) for strategy, _, seed in cells}}
    luck = {seed: 5 * rng.normal() for _, _, seed in cells}
    values = [plots[strategy, seed] + luck[seed] + 0.3 * rng.normal() for strategy, _, seed in cells]
    return [(strategy, objective) for strategy, objective, _ in cells], [seed for *_, seed in cells], np.array(values)


SETTINGS = [(a, o) for a, count in (("a", 5), ("b", 3), ("c", 1), ("d", 2), ("e", 1)) for o in map(str, range(count))]
BALANCED = [(*setting, seed) for setting, seed in product(SETTINGS, range(3))]
CONTRASTS = [
    {("a", "1"): 1, ("a", "0"): -1},
    {("a", "0"): 1, ("b", "0"): -1},
    {("a", "1"): 1, ("a", "0"): -1, ("b", "1"): -1, ("b", "0"): 1},
    {("c", "0"): 1, ("e", "0"): -1},
]


def test_equal_numbers_of_seeds_are_plain_sums_of_squares(rng):
    settings, seeds, values = simulated(rng, BALANCED, 0.4)
    table = np.array(values).reshape(len(SETTINGS), 3)
    strategies = np.array([strategy for strategy, _ in SETTINGS])
    plots = {one: table[strategies == one] - table[strategies == one].mean(1, keepdims=True) for one in "abcde"}
    within = sum(((of - of.mean(0)) ** 2).sum() for of in plots.values()) / (
        2 * sum(len(of) - 1 for of in plots.values())
    )
    centred = table - table.mean(1, keepdims=True)
    between = ((centred - centred.mean(0)) ** 2).sum() - within * 2 * (len(SETTINGS) - 5)
    model = Mixed(settings, seeds, values)
    assert (model.within_freedom, model.between_freedom) == (14, 8)
    assert (model.within, model.between) == pytest.approx((within, between / 8))
    counts = np.array([len(of) for of in plots.values()])
    share = (len(SETTINGS) - (counts**2).sum() / len(SETTINGS)) / 4  # settings of a strategy, weighted
    of_plots = (between / 8 - within) / share
    found = model.contrast(CONTRASTS[1])
    assert found.estimate == pytest.approx(table[0].mean() - table[5].mean())
    assert found.error == pytest.approx(np.sqrt(2 * (within + max(0, of_plots)) / 3))
    assert model.contrast(CONTRASTS[2]).error == pytest.approx(np.sqrt(4 * within / 3))


@pytest.mark.parametrize("of_plots", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("missing", [0, 7])
def test_intervals_cover_whatever_strategies_and_seeds_have_in_common(of_plots, missing, rng):
    cells = [cell for place, cell in enumerate(BALANCED) if place % 5 or place >= 5 * missing]
    model, held = Mixed(*simulated(rng, cells, of_plots)), np.zeros(len(CONTRASTS))
    for _ in range(300):
        *_, model.values = simulated(rng, cells, of_plots)
        for place, weights in enumerate(CONTRASTS):
            found = model.contrast(weights)
            held[place] += abs(found.estimate) <= stats.t.ppf(0.975, found.freedom) * found.error
    assert (held / 300 > 0.91).all()
    assert missing or (held[[0, 2]] / 300 < 0.985).all()  # exact for equal numbers


def test_what_the_runs_do_not_determine_has_no_error():
    one_seed = Mixed([("a", "0"), ("a", "1"), ("b", "0")], [0, 0, 0], [1.0, 2.0, 4.0])
    found = one_seed.contrast({("a", "1"): 1, ("a", "0"): -1})
    assert found.estimate == pytest.approx(1) and np.isnan(found.error)
    apart = Mixed([("a", "0"), ("b", "0"), ("a", "0"), ("b", "1")], [0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(apart.contrast({("a", "0"): 1, ("b", "0"): -1}).estimate)
    settings = [("a", "0"), ("a", "1"), ("a", "0"), ("a", "1")]
    alike = Mixed(settings, [0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0])  # the seeds differ alike
    assert np.isnan(alike.contrast({("a", "1"): 1, ("a", "0"): -1}).error)
    alone = Mixed([("a", "0"), ("b", "0"), ("a", "0"), ("b", "0")], [0, 0, 1, 1], [1.0, 2.0, 2.0, 3.5])
    found = alone.contrast({("b", "0"): 1, ("a", "0"): -1})  # one objective a strategy: the paired t
    assert (found.error, found.freedom) == pytest.approx((stats.sem([1.0, 1.5]), 1))
