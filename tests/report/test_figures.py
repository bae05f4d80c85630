"""What the figures of nulls say is what their data say."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image

from stages.core.analysis import nulls
from stages.core.analysis.dims import shares
from stages.core.analysis.spectra import mean_spectra, moment, pattern, permuted_spectra, spectrum_of_moment, unfold
from stages.core.config import schema
from stages.core.report import style
from stages.core.report.figures import blocks as block_figures
from stages.core.report.figures import rotation as rotation_figures
from stages.core.report.figures import sep as sep_figures
from stages.core.report.figures import truncation as truncation_figures
from stages.core.report.tables import representation as tables

LEVELS = [50, 90]


@pytest.fixture
def sep(features):
    """sep_curves.csv and one backbone of sep.json, of small features."""
    spectra, permuted = mean_spectra(features), permuted_spectra(moment(features), 99, seed=0)
    mean, rows, metrics = spectra.mean(), [], {}
    expected = {
        "white_noise": nulls.white_noise(24),
        "permuted_expected": nulls.permutation_expectation(mean[0], 24),
        "gaussian": spectrum_of_moment(nulls.gaussian_moment(nulls.fit_gaussian(features))),
    }
    for name, of in (("folded", lambda spectrum: spectrum), ("full", lambda spectrum: unfold(spectrum, 24))):
        found = pattern(of(mean), of(permuted), LEVELS)
        curves = {null: shares(of(spectrum)) for null, spectrum in expected.items()}
        metrics[name] = found.metrics | nulls.against(found.curve[0], curves, shares(of(permuted)), LEVELS)
        columns = ["observed", "permuted_mean", "permuted_p5", "permuted_p95"]
        table = pd.DataFrame(found.curve.T, columns=columns).assign(**curves, spectrum=name, backbone="teacher")
        table["frequency"] = table.index + 1
        rows.append(table.assign(share_of_bins=table["frequency"] / len(table)))
    told = {"backbone": "teacher", "weights": "fit", "permutations": 99}
    return pd.concat(rows), told | metrics["full"] | {"folded": metrics["folded"]}


def test_the_gap_drawn_is_the_gap_reported(sep):
    curves, metrics = sep
    figure, caption = sep_figures.sep_gap(curves, metrics, "teacher")
    for panel, of in zip(figure.axes, (metrics, metrics["folded"]), strict=True):
        lines = {line.get_label(): line.get_xydata() for line in panel.lines}
        observed = lines["observed"]
        place = np.abs(observed[:, 1]).argmax()
        np.testing.assert_allclose(observed[place], lines["its largest gap"][0], atol=1e-6)
        assert f"p = {of['p_value']:.3g}" in panel.get_title()
        assert f"{of['largest_gap']:+.4f}" in caption


@pytest.mark.parametrize(("p", "text"), [(0.5, "indistinguishable from"), (0.001, "differs from")])
def test_the_caption_says_what_the_test_found(sep, p, text):
    curves, metrics = sep
    assert text in sep_figures.sep_gap(curves, metrics | {"p_value": p}, "teacher")[1]


def test_rotation_without_pairs_in_a_class_says_so():
    kinds = ["across", "shared", "random"]
    spread = {"mean": 0.5, "median": 0.5, "p5": 0.4, "p95": 0.6}
    rank = {"per_image": spread, "shared": 2.0}
    metrics = {
        **{"backbone": "x", "weights": "random", "kinds": kinds, "k": 2, "level": 95, "channels": 8},
        **{"compared": dict.fromkeys(kinds, 3), "effective_rank": rank, "stable_rank": rank},
        **{key: dict.fromkeys(kinds, spread) for key in ("overlap", "mean_angle_degrees")},
        "expected_random_overlap": 0.25,
    }
    angles = pd.DataFrame(
        [{"backbone": "x", "kind": kind, "angle": i, "mean": 40, "p5": 30, "p95": 50} for kind in kinds for i in (1, 2)]
    )
    overlap = pd.DataFrame([{"backbone": "x", "kind": kind, "percentile": 0, "overlap": 0.5} for kind in kinds])
    figure, caption = rotation_figures.rotation(angles, overlap, metrics)
    assert "no pair within one" in caption
    assert "random weights" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        rotation_figures.KINDS[kind] for kind in kinds
    ]


def test_intervals_stand_beside_their_means():
    values = {"mean": {"50": 0.5}, "low": {"50": 0.4}, "high": {"50": 0.625}}
    of = {"bandwidth_over_images": {"observed": values, "difference": values}}
    rows = tables.sep_over_images({"thresholds": [50], **of, "folded": of})
    assert [row["spectrum"] for row in rows] == ["full", "folded"]
    assert rows[0]["observed"] == "0.5000 (0.4000 to 0.6250)"
    assert rows[1]["difference"] == "+0.5000 (+0.4000 to +0.6250)"


TRUNCATION = {
    **{"backbone": "mine", "weights": "fit", "block": 4, "last_block": 5, "channels": 16, "top1": 80.0},
    "shares": [95, 99],
    "bases": {
        "shared": {"dims": {"95": 4, "99": None}, "knee": 3},
        "per_image": {"dims": {"95": 2, "99": 8}, "knee": None},
    },
    "energy": {"shared": {"95": 9, "99": 15}, "per_image": {"95": 3.5, "99": 7.25}},
}


def test_the_truncation_figure_says_which_block_was_projected_and_what_is_not_reached():
    curve = pd.DataFrame({"dims": [1, 4, 16], "shared": [10.0, 72.0, 79.0], "per_image": [30.0, 79.0, 80.0]})
    curves = pd.concat([curve.assign(backbone="other", per_image=0.0), curve.assign(backbone="mine")])
    figure, caption = truncation_figures.accuracy_by_dims(curves, TRUNCATION)
    assert "block 5 of 6, the last whose patch tokens the logits depend on" in caption and "`mine`" in caption
    assert "4 for 95 %, more than 16 for 99 %, knee at 3" in caption
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert {"95 % of the energy, per-image basis: 3.5", "95 % of the energy, shared basis: 9"} <= set(labels) and len(
        labels
    ) == 4
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["per-image basis"]) == [30.0, 79.0, 80.0]
    table = tables.dims_needed(TRUNCATION)
    assert table["top-1, shared basis"].tolist() == ["4", "–"] and table["energy, per-image basis"].tolist() == [
        "3.5",
        "7.25",
    ]


def test_models_that_were_not_trained_are_drawn_block_by_block():
    measures = {"frequency_intensity": 0.1, "token_entropy": 1.0, "activation": 0.5, "gradient": 0.01}
    rows = [
        {"run": name, "strategy": name, "objective": None, "block": b, **measures, "activation": value}
        for name, value in (("vit", 0.5), ("swin", 0.25))
        for b in range(4)
    ]
    student = {"run": "lift-none-0", "strategy": "lift", "objective": "none", "block": 0, **measures}
    figure, caption = block_figures.of_backbones(pd.DataFrame([*rows, student]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["vit", "swin"]
    assert [line.get_ydata()[-1] for line in figure.axes[2].lines] == [0.5, 0.25]
    assert (
        "of 2 models" in caption and "`swin` intensity 0.1, entropy 1 bits, activation 0.25, gradient 0.01" in caption
    )


def test_heat_maps_show_the_mean_over_seeds():
    rows = [
        {"strategy": "lift", "objective": "none", "seed": seed, "block": b, "teacher_block": t, "cka": 0.1 * b + seed}
        for seed in (0, 0.5)
        for b in range(2)
        for t in range(3)
    ]
    figure, caption = block_figures.cka(pd.DataFrame(rows))
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, [[0.25] * 3, [0.35] * 3])
    assert "mean over 2 seeds" in caption and "lift with none 0.35" in caption


@pytest.mark.parametrize("settings", [1, 2, 3, 4, 5])
def test_maps_of_cka_stand_in_rows_whatever_their_number(settings):
    table = pd.DataFrame(
        {"strategy": f"strategy{n}", "objective": "none", "seed": 0, "block": b, "teacher_block": b, "cka": 0.5}
        for n in range(settings)
        for b in range(2)
    )
    figure, _ = block_figures.cka(table)
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    assert titles == [f"strategy{n}, none" for n in range(settings)]


def test_kept_epochs_are_drawn_one_line_each_between_teacher_and_end():
    measures = {"frequency_intensity": 0.1, "token_entropy": 1.0, "activation": 0.5}
    names = {"objective": "none", "seed": 0}
    kept = pd.DataFrame(
        {**names, "strategy": s, "epoch": e, "block": b, **measures, "token_entropy": e + seed, "gradient": 0.01}
        for seed in (0, 1)
        for s in ("copy", "half")
        for e in (2, 4)
        for b in range(2)
    )
    end = [{**names, "strategy": s, "block": b, **measures, "gradient": 1} for s in ("copy", "half") for b in range(2)]
    teacher = [{"strategy": "teacher", "block": b, **measures, "gradient": 2.0} for b in range(4)]
    figure, caption = block_figures.kept_epochs(kept, pd.DataFrame([*teacher, *end]), "none")
    assert len(figure.axes) == 8
    entropy = figure.axes[1]
    assert [line.get_ydata()[-1] for line in entropy.lines] == [1.0, 2.5, 4.5, 1.0]  # means over seeds
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["teacher", "epoch 2", "epoch 4", "end of training"]
    assert figure.axes[0].get_ylabel().startswith("copy\n") and figure.axes[4].get_ylabel().startswith("half\n")
    assert "after 2 and 4 epochs" in caption and "copy 2.50, then 1.00; half 2.50, then 1.00" in caption


def test_the_projects_strategies_have_looks_of_their_own():
    drawn = style.looks([*style.KNOWN, "another"])
    assert list(drawn) == [*style.KNOWN, "another"]
    assert len({look.color for name, look in drawn.items() if name != "another"}) == len(style.KNOWN)
    assert len({look.marker for name, look in drawn.items() if name != "another"}) == len(style.KNOWN)


@pytest.mark.parametrize("label", ["digits", "W" * schema.LABEL, "ИЗОБРАЖЕНИЯ Ωmega Ærø_Ünïted (2)"])
def test_a_face_says_all_that_it_says_on_a_strip_of_its_own(label, tmp_path):
    """Of the longest name of a dataset, the longest of timm's and the smallest figure."""
    figure = style.new_figure(5.5, 3)
    face = f"{schema._label(label)} · 1,000 images · vit_base_patch16_clip_224.laion2b_ft_in12k_in1k, random weights"
    style.sign(figure, face)
    assert style.face_of(figure) == face
    box = figure.texts[-1].get_window_extent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that its font lacks
        style.save(figure, tmp_path, "f")
    with Image.open(tmp_path / "f.png") as saved:
        strip = saved.height / style.PNG_DPI - 3  # inches
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= 1 and box.y0 >= -strip * figure.dpi - 1


def test_the_font_of_figures_has_every_letter_that_a_dataset_may_be_named_with():
    figure = style.new_figure(1, 1)
    font = FT2Font(font_manager.findfont(figure.text(0, 0, "").get_fontproperties())).get_charmap()
    letters = [chr(code) for code in range(0x10000) if re.match(schema.LETTER, chr(code)) and chr(code).isalnum()]
    assert [letter for letter in (*letters, *schema.SIGNS) if ord(letter) not in font] == []
    assert {*"aZ9éßΩжẞ"} <= {*letters} and not {*"中$あא"} & {*letters}


def test_the_colours_of_a_saved_figure_are_those_that_were_drawn(tmp_path):
    figure = style.new_figure(3, 2)
    panel = figure.subplots()
    panel.imshow(np.random.default_rng(0).random((30, 30)), cmap="cividis")  # takes all the colours that there are
    for position, color in enumerate(style.PALETTE):
        panel.plot([position], [position], "o", color=color, ms=4)
    style.save(figure, tmp_path, "saved")
    figure.savefig(tmp_path / "drawn.png", dpi=style.PNG_DPI)
    with Image.open(tmp_path / "saved.png") as saved, Image.open(tmp_path / "drawn.png") as drawn:
        assert saved.mode == "P"
        a, b = (np.asarray(image.convert("RGB")).astype(int) for image in (saved, drawn))
    assert np.abs(a - b).max() <= 12  # of 255, in any channel
    assert (tmp_path / "saved.png").stat().st_size < (tmp_path / "drawn.png").stat().st_size
