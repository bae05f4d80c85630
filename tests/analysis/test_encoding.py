import math

import numpy as np
import pandas as pd
import pytest
import torch

from stages.core.analysis import last_block, pca, registry, sep, svd
from stages.core.analysis.dims import floor as floor_of
from stages.core.base.errors import UserError
from stages.core.distillation import loss_comparison
from stages.core.models.maps import forward_with_map
from stages.core.report.figures import encoding as figures_encoding
from stages.core.report.figures.width_floor import width_floor
from stages.core.report.tables import encoding as tables

LEVELS = [80, 95]
RESAMPLED = {"resamples": 1, "seed": 0}
SETTINGS = {
    "svd": svd.Params(thresholds=LEVELS, **RESAMPLED),
    "pca": pca.Params(thresholds=LEVELS, gaussian_tokens=1, **RESAMPLED),
    "sep": sep.Params(thresholds=[50, 90], permutations=20, **RESAMPLED),
}


def measure(tokens):
    """What encoding.csv holds of the tokens of one model."""
    rows = [registry.load(name).of_map(tokens, SETTINGS[name]) for name in registry.OF_STUDENTS]
    return {name: value for row in rows for name, value in row.items()}


def first(cumulative, level):
    """How many leading entries reach a share, counted one by one."""
    return next(count for count, share in enumerate(cumulative, 1) if share >= level - 1e-12)


def test_measures_agree_with_their_plain_definitions(features):
    row = measure(features)
    tokens = features.astype(np.float64)
    squares = [np.linalg.svd(image, compute_uv=False) ** 2 for image in tokens]
    own = [first(np.cumsum(of) / of.sum(), 0.95) for of in squares]
    assert row["per_image_95"] == pytest.approx(np.percentile(own, 99))
    assert row["per_image_mean_95"] == pytest.approx(np.mean(own))
    flat = tokens.reshape(-1, 24)
    s, vt = np.linalg.svd(flat, full_matrices=False)[1:]
    assert row["shared_global_80"] == first(np.cumsum(s**2) / np.sum(s**2), 0.8)
    along = [np.square(image @ vt.T).sum(axis=0) for image in tokens]
    assert row["shared_95"] == pytest.approx(np.percentile([first(np.cumsum(a) / a.sum(), 0.95) for a in along], 99))
    power = np.abs(np.fft.fft(flat)) ** 2
    curve = np.cumsum((power / power.sum(axis=1, keepdims=True)).mean(axis=0))
    assert row["bandwidth_90"] == first(curve, 0.9) / 24
    half = (power / power.sum(axis=1, keepdims=True)).mean(axis=0)
    folded = np.array([half[0], *(half[k] + half[-k] for k in range(1, 12)), half[12]])
    assert row["bandwidth_folded_90"] == first(np.cumsum(folded), 0.9) / 13
    assert row["permuted_bandwidth_50"] == pytest.approx(0.5, abs=2 / 24)  # by symmetry, whatever the order
    assert row["participation_shared"] == pytest.approx(np.sum(s**2) ** 2 / np.sum(s**4))
    assert row["participation_per_image"] == pytest.approx(np.mean([of.sum() ** 2 / np.sum(of**2) for of in squares]))


@pytest.mark.parametrize(
    ("strategy", "arguments", "rank"),
    [
        ("baseline", {}, 48),
        ("uniform", {}, 57),
        ("widen", {}, 96),
        ("lift", {}, 49),
        ("lift", {"lift_width": 40}, 40),
    ],
)
@torch.no_grad()
def test_tokens_fill_the_rank_that_a_map_can_have(strategy, arguments, rank, make_student):
    model = make_student(strategy, **arguments).eval().double()
    if strategy == "lift":
        model.lift_norm.bias.normal_()
    images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = last_block.tokens_of(forward_with_map(model, images)[1]).reshape(60 * 16, -1)
    assert last_block.map_rank(model) == rank
    assert np.linalg.matrix_rank(tokens) == rank


def test_maps_are_the_models_last_blocks(make_student, images):
    model = make_student("lift").eval()
    batches = [(part, torch.zeros(len(part))) for part in images.split(2)]
    found = last_block.last_maps(model, batches, torch.device("cpu"), lambda given: 2 * given)
    with torch.no_grad():
        expected = forward_with_map(model, 2 * images)[1]
    torch.testing.assert_close(found, expected)
    np.testing.assert_array_equal(last_block.tokens_of(found)[3, 6], found[3, :, 1, 2].numpy())


def pair(rows, columns, channels=5, images=70):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, images, channels, rows, columns, generator=generator)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (2, 7), (5, 2), (14, 14)])
def test_losses_differ_by_the_weights_of_the_half_spectrum(rows, columns):
    """The full spectrum's energy is the map's (Parseval); kept are the columns up to the middle one."""
    student, teacher = pair(rows, columns)
    found = loss_comparison.spectral_against_mse(student, teacher)
    power = np.abs(np.fft.fft2((student - teacher).double().numpy(), norm="ortho")) ** 2
    kept = columns // 2 + 1
    ratio = (power[..., :kept].sum() / (2 * rows * kept)) / (power.sum() / (rows * columns))
    assert found.ratio == pytest.approx(ratio, rel=1e-5)
    low, high = loss_comparison.ratio_bounds(rows, columns)
    assert low * (1 - 1e-6) <= found.ratio <= high * (1 + 1e-6)
    # A gradient in frequencies is the difference times weights: 1 for a column and its mirror image together, or 2.
    weights = np.array([2 if column in (0, columns / 2) else 1 for column in range(columns)])
    cosine = np.sum(power * weights) / math.sqrt(np.sum(power * weights**2) * np.sum(power))
    assert found.gradient_cosine == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 7])
def test_the_bounds_of_the_ratio_are_met(columns):
    low, high = loss_comparison.ratio_bounds(3, columns)
    teacher = torch.zeros(2, 4, 3, columns)
    flat = loss_comparison.spectral_against_mse(torch.ones_like(teacher), teacher)  # all in frequency 0's column
    assert (flat.ratio, flat.gradient_cosine) == pytest.approx((high, 1), rel=1e-5)
    wave = torch.cos(2 * torch.pi * torch.arange(columns) / columns).expand_as(teacher)  # in column 1 and its mirror
    expected = low if columns > 2 else high
    assert loss_comparison.spectral_against_mse(wave, teacher).ratio == pytest.approx(expected, rel=1e-5)


def test_a_narrow_student_is_compared_with_the_pooled_teacher():
    student, teacher = pair(4, 4, channels=6)
    pooled = teacher.unflatten(1, (3, 2)).mean(dim=2)
    narrow = student[:, :3]
    assert loss_comparison.relative_error(narrow, teacher) == pytest.approx(
        ((narrow - pooled).square().sum() / pooled.square().sum()).item(), rel=1e-5
    )
    assert loss_comparison.spectral_against_mse(narrow, teacher) == loss_comparison.spectral_against_mse(narrow, pooled)


def test_other_grids_are_refused():
    student, teacher = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)
    with pytest.raises(UserError, match="grid"):
        loss_comparison.spectral_against_mse(student, teacher)


@pytest.fixture
def rows(features):
    """encoding.csv of a teacher and of students without an objective `none`, none as wide as the teacher."""
    own = measure(features)
    fixed, per_image = floor_of(pca.shared_basis(features).eigenvalues, 24), svd.energies(features).mean(axis=0)
    grid = {"images": 6, "rows": 3, "columns": 3}
    run = {"width": 12, "rank": 12, **grid, **measure(features[..., :12]), "probe_error": 0.25}
    run |= {"cka": 0.5, "relative_feature_error": 3.0, "spectral_over_mse": 0.51, "gradient_cosine": 0.96}
    run |= {"spectral_over_mse_least": 0.333, "spectral_over_mse_most": 0.667}
    table = pd.DataFrame(
        [
            {"run": "teacher", "strategy": "teacher", "width": 24, "rank": 24, "cka": 1.0, **grid, **own},
            *(
                {"run": f"{name}-mse-{seed}", "strategy": name, "objective": "mse", "seed": seed, **run}
                for name in ("baseline", "mine")
                for seed in (0, 1)
            ),
        ]
    )
    floor = pd.DataFrame({"shared": fixed, "per_image": floor_of(per_image, 24)})
    return table, floor.assign(backbone="teacher", dims=floor.index + 1)


def test_figures_draw_any_subset_of_runs(rows):
    table, floor = rows
    figure, caption = width_floor(floor, table)
    assert "baseline 0.25, mine 0.25" in caption and "Filled markers" not in caption
    assert f"rank 12, the floor is {floor['shared'][11]:.2g}" in caption
    assert "knows nothing of the teacher would have an error of about 1.86 at width 12" in caption  # 1 + 12 / (27 - 13)
    figure, caption = figures_encoding.encoding(table)
    assert "baseline 0.50 with mse; mine 0.50 with mse" in caption
    assert len(figure.axes) == 6


def test_tables_of_encodings(rows):
    table, floor = rows
    means = tables.encodings(table)
    assert list(means["strategy"]) == ["teacher", "baseline", "mine"]
    assert list(means["shared dims, 95 %"]) == [table["shared_global_95"][place] for place in (0, 1, 3)]
    shown = tables.widths(floor, [80]).iloc[0].to_dict()
    fixed, own = (1 + int((floor[kind] > 0.2).sum()) for kind in ("shared", "per_image"))
    assert shown == {"backbone": "teacher", "D": 24, "80 %": f"{fixed} ({own})"}


def test_the_papers_premise_holds_or_does_not(rows):
    table, _ = rows
    falling = pd.DataFrame({"shared": 1 - np.arange(1, 25) / 24, "per_image": 1 - np.arange(1, 25).clip(max=12) / 12})
    floor = falling.assign(backbone="teacher", dims=falling.index + 1)
    assert "needs 12 of 24 directions where each image has its own, and 23 that all" in tables.premise(floor, table)
    assert "mismatch over all of them, holds here" in tables.premise(floor, table)
    wide = table.assign(width=23)
    assert "is not there at this scale: one shared projector from 23 channels need not lose more than 0.042" in (
        tables.premise(floor, wide)
    )


def test_students_without_a_target_leave_their_cells_empty(rows):
    table = rows[0].copy()
    table.loc[table["strategy"] == "mine", ["relative_feature_error", "spectral_over_mse", "gradient_cosine"]] = (
        math.nan
    )
    comparison = pd.DataFrame(
        {"strategy": ["baseline", "mine"], "objective": ["mse"] * 2, "top1_mean": [70.0] * 2, "top1_std": [0.1] * 2}
    )
    shown = tables.spectral_against_mse(table, {"this run": comparison})
    assert list(shown["spectral loss / mse"].fillna("")) == ["0.510 – 0.510", ""]
    assert list(shown["bounds of it"]) == ["0.333 – 0.667"] * 2
    width_floor(rows[1], table)


def test_table_of_the_two_losses_takes_accuracy_from_every_study(rows):
    comparison = pd.DataFrame(
        {
            "strategy": ["baseline", "baseline"],
            "objective": ["mse", "spectral"],
            "top1_mean": [70.0, 71.0],
            "top1_std": [math.nan, 0.5],
        }
    )
    shown = tables.spectral_against_mse(rows[0], {"this run": comparison[:1], "study": comparison})
    assert list(shown["top-1 with mse, %"]) == ["70.00", "70.00"]
    assert list(shown["top-1 with spectral, %"].fillna("")) == ["", "71.00 ± 0.50"]
    assert list(shown["spectral loss / mse"].fillna("")) == ["0.510 – 0.510", ""]
