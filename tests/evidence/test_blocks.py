"""Randomised blocks and the intervals made from them, against textbook formulas, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from stages.core.evidence.blocks import Blocks
from stages.core.evidence.simultaneous import dunnett, tukey

BALANCED = [(setting, seed) for setting in range(6) for seed in range(3)]
MORE_SEEDS = [(setting, seed) for setting in range(6) for seed in range(5) if seed < 3 or setting < 2]
ONE_SEED = [(setting, seed) for setting in range(6) for seed in range(3) if seed == 0 or setting < 4]


def blocks_of(cells: list[tuple[int, int]]) -> Blocks:
    return Blocks(*zip(*cells, strict=True))


def critical_values(blocks: Blocks) -> tuple[float, float]:
    """Of Tukey's intervals, and of Dunnett's with the first setting as control."""
    others = range(1, len(blocks.settings))
    return tukey(len(blocks.settings), blocks.freedom), dunnett(blocks.correlation(others, 0), blocks.freedom)


def test_balanced_blocks_are_the_two_way_analysis_of_variance(rng):
    table = rng.normal(size=(6, 3)) + rng.normal(size=(6, 1)) + 5 * rng.normal(size=3)  # [settings, seeds]
    blocks, values = blocks_of(BALANCED), table.ravel()
    effects = blocks.effects(values)
    assert effects - effects[0] == pytest.approx(table.mean(1) - table.mean(1)[0])
    total = ((table - table.mean()) ** 2).sum()
    of_settings, of_seeds = (n * ((table.mean(axis) - table.mean()) ** 2).sum() for n, axis in ((3, 1), (6, 0)))
    assert blocks.freedom == 5 * 2
    assert blocks.variance(values) == pytest.approx((total - of_settings - of_seeds) / 10)
    assert blocks.error(4, 1) == pytest.approx(np.sqrt(2 / 3))
    shifted = values + 40 * np.array([seed for _, seed in BALANCED])  # whatever a seed adds to all settings drops out
    assert blocks.variance(shifted) == pytest.approx(blocks.variance(values))


def test_intervals_of_balanced_blocks_are_scipys_with_the_degrees_of_freedom_of_blocks(rng):
    """tukey_hsd of values without the seeds' means has the same squares on too many degrees of freedom."""
    table = rng.normal(size=(6, 3)) + 9 * rng.normal(size=3)
    blocks, values = blocks_of(BALANCED), table.ravel()
    other = stats.tukey_hsd(*(table - table.mean(0))).confidence_interval(0.95)
    half = (other.high - other.low)[0, 1] / 2
    anova = half * tukey(6, blocks.freedom) / tukey(6, 12) * np.sqrt(12 / 10)
    own = tukey(6, blocks.freedom) * blocks.error(0, 1) * np.sqrt(blocks.variance(values))
    assert own == pytest.approx(anova, rel=1e-6)


@pytest.mark.parametrize("cells", [MORE_SEEDS, ONE_SEED], ids=["more seeds", "one seed"])
def test_unequal_numbers_of_seeds_are_least_squares(cells, rng):
    values = rng.normal(size=len(cells)) + np.array([3 * seed + setting for setting, seed in cells])
    blocks = blocks_of(cells)
    seeds = sorted({seed for _, seed in cells})
    # The usual coding: an intercept, and one column less than there are settings and seeds.
    design = np.array(
        [[1, *(setting == one for one in range(1, 6)), *(seed == one for one in seeds[1:])] for setting, seed in cells],
        dtype=float,
    )
    found, (squares,), rank, _ = np.linalg.lstsq(design, values)
    assert blocks.freedom == len(cells) - rank
    assert blocks.variance(values) == pytest.approx(squares / blocks.freedom)
    effects, inverse = blocks.effects(values), np.linalg.inv(design.T @ design)
    for first, second in ((1, 0), (5, 0), (5, 2), (3, 4)):
        contrast = np.zeros(len(found))
        contrast[first] += first > 0
        contrast[second] -= second > 0
        assert effects[first] - effects[second] == pytest.approx(contrast @ found)
        assert blocks.error(first, second) == pytest.approx(np.sqrt(contrast @ inverse @ contrast))


def test_a_difference_that_no_seed_connects_has_no_error():
    blocks = blocks_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 7), (3, 7)])
    assert np.isnan(blocks.error(0, 2)) and blocks.error(2, 3) == pytest.approx(np.sqrt(2))
    assert blocks.freedom == 1
    assert blocks_of([(0, 0), (1, 1)]).freedom == blocks_of([(0, 0), (1, 0), (1, 1)]).freedom == 0
    with pytest.raises(ValueError, match="same setting and seed"):
        blocks_of([(0, 0), (0, 0)])


@pytest.mark.parametrize(("groups", "each"), [(3, 4), (6, 3), (17, 3)])
def test_dunnetts_value_is_scipys(groups, each, rng):
    """Without blocks, groups of equal size have correlations of one half; scipy computes its interval otherwise."""
    samples = rng.normal(size=(groups, each))
    found = stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0)).confidence_interval(0.95)
    freedom = groups * (each - 1)
    error = np.sqrt(samples.var(axis=1, ddof=1).mean() * 2 / each)
    half_width = (found.high - found.low)[0] / 2 / error
    assert dunnett(0.5 + 0.5 * np.eye(groups - 1), freedom) == pytest.approx(half_width, rel=4e-3)


def test_critical_values_of_one_comparison_are_students_t():
    for freedom in (1, 4, 30):
        t = stats.t.ppf(0.975, freedom)
        assert tukey(2, freedom) == pytest.approx(t, rel=1e-4)
        assert dunnett(np.eye(1), freedom) == pytest.approx(t)
        assert dunnett(np.ones((2, 2)), freedom) == pytest.approx(t, rel=2e-3)  # the same comparison twice
    # Independent comparisons with a known variance: (2Φ(c) − 1)^m = 0.95.
    assert dunnett(np.eye(8), 10**7) == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / 8)) / 2), rel=2e-3)
    assert dunnett(0.5 + 0.5 * np.eye(5), 10) == dunnett(0.5 + 0.5 * np.eye(5), 10)


def coverage(cells: list[tuple[int, int]], spreads: list[float], samples: int, rng) -> tuple[float, float, float]:
    """How often all intervals hold at once: Tukey's, Dunnett's, and Dunnett's with Tukey's of all other pairs."""
    blocks = blocks_of(cells)
    settings, seeds = np.array(cells).T
    values = rng.normal(size=(samples, len(cells))) * np.array(spreads)[settings]
    values += 3 * rng.normal(size=(samples, seeds.max() + 1))[:, seeds]
    effects, count = blocks.effects(values), len(blocks.settings)
    errors = np.array([[blocks.error(i, j) if i != j else 1 for j in range(count)] for i in range(count)])
    t = np.abs(effects[:, :, None] - effects[:, None, :]) / errors / np.sqrt(blocks.variance(values))[:, None, None]
    all_pairs, control = critical_values(blocks)
    held = t[:, 0].max(1) <= control
    others = t[:, 1:, 1:].max((1, 2)) <= all_pairs
    return (t.max((1, 2)) <= all_pairs).mean(), held.mean(), (held & others).mean()


@pytest.mark.parametrize("cells", [BALANCED, MORE_SEEDS, ONE_SEED], ids=["balanced", "more seeds", "one seed"])
def test_whole_families_are_covered(cells, rng):
    tukeys, dunnetts, both = coverage(cells, [1] * 6, 6000, rng)
    assert 0.94 < tukeys < 0.967 and 0.94 < dunnetts < 0.96  # 3.5 standard errors, and Tukey and Kramer's excess
    assert both > 0.915


@pytest.mark.nightly
@pytest.mark.parametrize("settings", [6, 12, 17])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_whole_families_are_covered_at_every_size(settings, seeds, rng):
    every = [(setting, seed) for setting in range(settings) for seed in range(seeds)]
    more = every + [(setting, seeds + extra) for setting in range(3) for extra in range(3)]
    fewer = [(setting, seed) for setting, seed in every if seed == 0 or setting <= settings // 2]
    for cells in (every, more, fewer):
        tukeys, dunnetts, both = coverage(cells, [1] * settings, 6000, rng)
        assert 0.94 < tukeys < 0.967 and 0.94 < dunnetts < 0.962 and both > 0.9
    # What the README of the reference says of unequal variances: lower bounds.
    half = [1.0] * (settings // 2) + [2.0] * (settings - settings // 2)
    assert min(coverage(every, half, 6000, rng)[:2]) > 0.86
    assert min(coverage(every, list(np.linspace(1, 2, settings)), 6000, rng)[:2]) > 0.9
    assert min(coverage(every, [1.0] * (settings - 1) + [3.0], 6000, rng)[:2]) > 0.8
    assert coverage(every, [3.0] + [1.0] * (settings - 1), 6000, rng)[1] > 0.65  # the control alone spreads


@pytest.mark.parametrize("cells", [BALANCED, MORE_SEEDS], ids=["balanced", "more seeds"])
def test_the_test_of_equal_variances_holds_its_level_and_finds_what_is_plain(cells, rng):
    blocks = blocks_of(cells)
    spread = np.array([8.0 if setting == 2 else 1.0 for setting, _ in cells])
    p = [blocks.equal_variances_p(rng.normal(size=len(cells))) for _ in range(60)]
    assert np.mean(np.array(p) < 0.05) < 0.12 and stats.kstest(p, "uniform").pvalue > 0.003
    found = [blocks.equal_variances_p(rng.normal(size=len(cells)) * spread) for _ in range(20)]
    assert np.mean(np.array(found) < 0.05) > 0.6


def test_equal_variances_cannot_be_tested_with_two_settings_or_without_spread(rng):
    assert np.isnan(blocks_of([(0, 0), (0, 1), (1, 0), (1, 1)]).equal_variances_p(rng.normal(size=4)))
    assert np.isnan(blocks_of(BALANCED).equal_variances_p(np.array([70.0 + setting for setting, _ in BALANCED])))
    variances = blocks_of(ONE_SEED).setting_variances(rng.normal(size=len(ONE_SEED)))
    assert np.isnan(variances[4:]).all() and (variances[:4] > 0).all()  # one run leaves nothing to estimate
