"""The headline draws what a folder of results holds, of the current run and of a study, on a light and a dark page."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from stages.core.base.files import read_json
from stages.core.evidence.results import read_table
from stages.core.evidence.studies import Study
from stages.core.report import style
from stages.core.report.figures import headline

PLAIN = ("baseline", "none")


@pytest.fixture
def results(committed, tmp_path):
    """A copy of the committed results."""
    return Path(shutil.copytree(committed / "reports/results", tmp_path / "results"))


@pytest.fixture
def wide(results):
    """Results with the paper's widths: a slow spectrum, whose shared basis does not fit into the student."""
    channels, dims = 384, np.arange(1, 385)
    curves = {"per_image": 1 - np.exp(-dims / 20), "shared": 1 - np.exp(-dims / 100)}
    energy = pd.DataFrame({"backbone": "teacher", "dims": dims})
    for kind, curve in curves.items():
        energy[f"{kind}_p50"], energy[f"{kind}_p1"] = curve, 0.9 * curve
    energy.to_csv(results / "energy.csv", index=False)
    for kind, needed in (("svd", 61), ("pca", 302)):
        of = json.loads((results / f"{kind}.json").read_text())
        of["teacher"] |= {"channels": channels, "dims_p99": {**of["teacher"]["dims_p99"], "95": needed}}
        (results / f"{kind}.json").write_text(json.dumps(of))
    runs = read_table(results / "runs.csv")
    runs.assign(width=192).to_csv(results / "runs.csv", index=False)
    return results


def boxes(figure):
    """The texts of a figure with their extents, of axes, legends and the figure itself."""
    figure.draw_without_rendering()
    texts = list(figure.texts)
    for panel in figure.axes:
        texts += [*panel.texts, *panel.get_xticklabels(), *panel.get_yticklabels()]
        texts += [panel.title, panel.xaxis.label, panel.yaxis.label]
    return {text: Text.get_window_extent(text) for text in texts if text.get_text() and text.get_visible()}  # no arrows


@pytest.mark.parametrize("kind", ["results", "wide"])
def test_no_text_covers_another(kind, request):
    figure, _ = headline.headline(request.getfixturevalue(kind))
    style.sign(figure, "digits · 2 seeds · current run")
    for (one, a), (other, b) in itertools.combinations(boxes(figure).items(), 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one.get_text(), other.get_text())
    inside = figure.axes[0].get_window_extent()
    assert all(Text.get_window_extent(text).x1 <= inside.x1 + 1 for text in figure.axes[0].texts)


def test_energy_and_dims_are_those_of_the_results(wide):
    figure, caption = headline.headline(wide)
    panel, energy = figure.axes[0], read_table(wide / "energy.csv")
    curves = [line.get_ydata() for line in panel.lines if len(line.get_xdata()) == len(energy)]
    np.testing.assert_allclose(curves, [100 * energy["per_image_p50"], 100 * energy["shared_p50"]])
    points = [line.get_xydata()[0] for line in panel.lines if len(line.get_xdata()) == 1]
    np.testing.assert_array_equal(points, [[61, 95], [302, 95]])
    told = " ".join(text.get_text().replace("\n", " ") for text in panel.texts)
    assert (
        "61 dimensions hold 95 %" in told and "302 dimensions hold 95 %" in told and "the student's width: 192" in told
    )
    assert "One image fits into the student's width of 192, the shared basis does not" in caption


def test_a_student_that_all_images_fit_into_shows_no_mismatch(wide):
    runs = read_table(wide / "runs.csv")
    runs.assign(width=302).to_csv(wide / "runs.csv", index=False)
    assert "here no mismatch of widths can be seen" in headline.headline(wide)[1]
    runs.assign(width=60).to_csv(wide / "runs.csv", index=False)
    assert "Not even one image fits into the student's width of 60" in headline.headline(wide)[1]


def test_differences_intervals_and_seeds_are_those_of_the_results(results):
    table = read_table(results / "differences.csv")
    shown = (table["strategy"] == "lift") & (table["objective"] == "mse") & (table["against_objective"] == "none")
    table.loc[shown & (table["against_strategy"] == "baseline"), ["difference", "low", "high", "verdict"]] = (
        *(2.5, 1.5, 3.5),
        "higher",
    )
    table.to_csv(results / "differences.csv", index=False)
    figure, caption = headline.headline(results)
    panel = figure.axes[1]
    names = [text.get_text() for text in panel.get_yticklabels()]
    plain = table[(table["against_strategy"] == PLAIN[0]) & (table["against_objective"] == PLAIN[1])]
    expected = {f"{row.strategy}, {row.objective}": row for row in plain.itertuples()}
    runs = read_table(results / "runs.csv")
    settings = dict.fromkeys(zip(runs["strategy"], runs["objective"], strict=True))
    assert names == [", ".join(setting) for setting in settings if setting != PLAIN]
    top1 = runs.pivot(index=["strategy", "objective"], columns="seed", values="top1")
    segments = [of.get_segments()[0][:, 0] for of in panel.collections]
    markers = [line for line in panel.lines if line.get_marker() != "." and len(line.get_xdata()) == 1]
    seeds = [sorted(line.get_xdata()) for line in panel.lines if line.get_marker() == "."]
    for name, segment, marker, points in zip(names, segments, markers, seeds, strict=True):
        row = expected[name]
        np.testing.assert_allclose(segment, [row.low, row.high])
        assert marker.get_xdata()[0] == row.difference
        filled = marker.get_markerfacecolor() == marker.get_color()
        assert filled == (row.verdict != "no difference shown")
        assert filled or name != "lift, mse"
        np.testing.assert_allclose(points, sorted(top1.loc[tuple(name.split(", "))] - top1.loc[PLAIN]))
    assert "lift with mse +2.50" in caption and "strongly" not in caption
    # Of a loss that was hardly applied nothing is shown, whatever its interval.
    figure, caption = headline.headline(results, withheld=[("lift", "mse")])
    markers = [line for line in figure.axes[1].lines if line.get_marker() != "." and len(line.get_xdata()) == 1]
    drawn = dict(zip(names, markers, strict=True))["lift, mse"]
    assert drawn.get_markerfacecolor() == style.LIGHT.background and "lift with mse" not in caption
    assert "hollow one says nothing where the feature loss was not applied strongly enough" in caption


def test_many_settings_leave_the_papers(results):
    table = read_table(results / "differences.csv")
    row = table[table["against_objective"] == "none"].iloc[0].to_dict()
    more = [
        row | {"strategy": strategy, "objective": objective, "against_strategy": "baseline"}
        for strategy in ("lift", "widen", "mine")
        for objective in ("none", "mse", "gram", "relation", "projector", "l1_cosine", "normalized_mse")
    ]
    pd.DataFrame(more).to_csv(results / "differences.csv", index=False)
    runs = read_table(results / "runs.csv")
    pd.concat([runs, runs.assign(strategy="mine")]).to_csv(results / "runs.csv", index=False)
    figure, caption = headline.headline(results)
    names = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert names == ["lift, none", "lift, mse", "widen, none", "widen, mse"]
    assert ", 4 of 21," in caption


def test_without_a_plain_student_the_energy_stands_alone(results):
    table = read_table(results / "differences.csv")
    table[table["against_strategy"] != "baseline"].to_csv(results / "differences.csv", index=False)
    figure, caption = headline.headline(results)
    assert len(figure.axes) == 1 and "There is no plain student" in caption


def test_dark_is_the_same_in_other_colours(results):
    light, caption = headline.headline(results)
    dark, other = headline.headline(results, style.DARK)
    assert other == caption and to_hex(dark.get_facecolor()) == style.DARK.background.lower()
    for one, of in zip(light.axes, dark.axes, strict=True):
        assert to_hex(of.get_facecolor()) == style.DARK.background.lower()
        for a, b in zip(one.lines, of.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
    light.draw_without_rendering(), dark.draw_without_rendering()
    for figure, theme in ((light, style.LIGHT), (dark, style.DARK)):  # whichever was drawn last
        assert {to_hex(text.get_color()) for text in figure.axes[0].get_xticklabels()} == {theme.foreground.lower()}


def test_equal_results_give_equal_bytes(results, tmp_path):
    files = []
    for place in ("one", "other"):
        figure, _ = headline.headline(results, style.DARK)
        style.sign(figure, "digits")
        style.save(figure, tmp_path / place, "headline_dark")
        files.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"headline_dark.svg", "headline_dark.png"}


def test_the_last_recorded_study_with_students_is_shown(committed, tmp_path):
    results, manifest = committed / "reports/results", committed / "reports/data.json"
    assert headline.source(results, manifest, []) == (results, manifest, "current run")
    dates = {"b": "2026-02-01", "a": "2026-03-01", "c": "2026-01-01", "backbones": "2026-04-01"}
    studies = [Study(name, tmp_path / name, {"date": date}) for name, date in dates.items()]
    for study in studies[:-1]:
        study.results.mkdir(parents=True)
        (study.results / "runs.csv").touch()
    assert headline.source(results, manifest, studies) == (studies[1].results, studies[1].data, "study a")
    face, images = headline.face(results, manifest, "study a"), read_json(results / "svd.json")["teacher"]["images"]
    seeds = read_table(results / "runs.csv")["seed"].nunique()
    assert face.startswith(f"{read_json(manifest)['dataset']} · {images:,} images · ")
    assert face.endswith(f" · {seeds} seeds · study a")
