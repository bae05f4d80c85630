"""Figures that the report's notebooks show of committed results: what stands on their faces, and what is legible."""

import itertools
import json

import IPython.display
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from stages.core.base.files import read_json
from stages.core.evidence.results import read_table
from stages.core.evidence.studies import latest, read
from stages.core.report import faces, notebooks, style
from stages.core.report.figures import distillation


@pytest.fixture(scope="module")
def shown(root, committed, tmp_path_factory):
    """Every figure that the notebooks save, by name, from the committed results; none is written."""
    folder, figures = tmp_path_factory.mktemp("figures"), {}

    def keep(figure, where, name):
        (where / f"{name}.png").touch()
        figures[name] = figure

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(committed)
        patch.setattr(notebooks, "save", keep)
        for module, name in ((IPython.display, "display"), (notebooks, "display"), (notebooks, "show_table")):
            patch.setattr(module, name, lambda *_, **__: None)
        for template in ("representation", "distillation"):
            cells = json.loads((root / f"notebooks/{template}.ipynb").read_text())["cells"]
            scope = {}
            for cell in [cell for cell in cells if cell["cell_type"] == "code"]:
                exec("".join(cell["source"]), scope)
                if "parameters" in cell["metadata"].get("tags", []):
                    scope["figures"] = folder.as_posix()
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def texts(figure):
    """The texts that are drawn, with their extents, without arrows."""
    found = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    for legend in [*figure.legends, *(panel.get_legend() for panel in figure.axes if panel.get_legend())]:
        found += legend.get_texts()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, *(tick.label1 for tick in ticks)]
        found += [panel.title, *panel.texts]
    drawn = [text for text in dict.fromkeys(found) if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in drawn]


def test_every_figure_says_what_it_is_of(shown, committed):
    expected = {"headline", "headline_dark", "accuracy", "teacher-sep", "teacher-truncation"}
    assert len(shown) > 20 and expected <= set(shown)
    last = latest(read(committed / "reports/studies"))
    current = committed / "reports/results", committed / "reports/data.json"
    whose = {True: (last.results, last.data) if last else current, False: current}  # of the headline, and of all others
    for name, figure in shown.items():
        face = style.face_of(figure)
        results, data = whose[name.startswith(("headline", "matching-"))]
        assert face.startswith(f"{read_json(data)['dataset']} · "), name
        of_students = {
            "accuracy",
            "cka",
            "cost",
            "curves",
            "differences",
            "dynamics",
            "encoding",
            "feature_error",
            "floor",
        }
        seeds = f"{read_table(results / 'runs.csv')['seed'].nunique()} seeds"
        assert (seeds in face) == (name.startswith(("headline", "matching")) or name in of_students), name
        assert "images" in face, name


def test_no_text_covers_another_or_leaves_the_page(shown):
    for name, figure in shown.items():
        strip = style.FACE_HEIGHT * figure.dpi
        page = Bbox([[0, -strip], [figure.bbox.x1, figure.bbox.y1]]).padded(1)
        found = texts(figure)
        for text, box in found:
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, (name, text)
        for (one, a), (other, b) in itertools.combinations(found, 2):
            assert not a.overlaps(b), (name, one, other)


def test_text_is_legible_at_half_size(shown):
    """No text is smaller than 9 points: 12 pixels of a page, 6 at half size."""
    for name, figure in shown.items():
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(sizes) >= 9, name


def test_strategies_and_objectives_stand_in_the_order_of_the_runs(shown, committed):
    runs = read_table(committed / "reports/results/runs.csv")
    strategies, objectives = (list(dict.fromkeys(runs[key])) for key in ("strategy", "objective"))
    panel = shown["accuracy"].axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == strategies * len(objectives)
    below = [text.get_text() for text in panel.texts]
    assert below[: len(objectives)] == [f"objective {objective}" for objective in objectives]
    for name in ("curves", "cost", "encoding", "dynamics"):
        labels = [text.get_text() for text in shown[name].legends[0].get_texts()]
        assert [label for label in labels if label in strategies] == strategies, name
    titles = [panel.get_title() for panel in shown["cka"].axes if panel.get_title()]
    assert titles == [f"{strategy}, {objective}" for strategy in strategies for objective in objectives]


def test_a_strategy_has_one_colour_in_every_figure(shown, committed):
    runs = read_table(committed / "reports/results/runs.csv")
    expected = {name: look.color for name, look in style.looks(runs["strategy"]).items()}
    for name in ("curves", "cost", "encoding", "dynamics"):
        legend = shown[name].legends[0]
        found = dict(zip((text.get_text() for text in legend.get_texts()), legend.get_lines(), strict=False))
        assert {one: found[one].get_color() for one in expected} == expected, name
    labels = shown["accuracy"].axes[0].get_xticklabels()
    assert {tick.get_text(): tick.get_color() for tick in labels} == expected


OBJECTIVES = ["softkd", "none", "gram"]


def runs_of(strategies):
    return pd.DataFrame(
        {"strategy": strategy, "objective": objective, "seed": seed, "top1": 90.0 + seed}
        for strategy in strategies
        for objective in OBJECTIVES
        for seed in (0, 1)
    )


def test_the_baseline_is_first_and_the_rest_as_given():
    assert list(style.looks(["widen", "mine", "baseline", "lift"])) == ["baseline", "widen", "mine", "lift"]
    _, panel = distillation._by_objective(runs_of(["widen", "baseline"]), "top1", "top-1")
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["baseline", "widen"] * 3
    assert [text.get_text() for text in panel.texts] == [f"objective {name}" for name in OBJECTIVES]


def test_a_figure_that_would_be_too_wide_for_names_has_a_legend():
    many = ["baseline", *(f"a_long_name_{place}" for place in range(9))]
    figure, panel = distillation._by_objective(runs_of(many), "top1", "top-1")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == many
    assert [tick.get_text() for tick in panel.get_xticklabels()] == OBJECTIVES
    assert figure.get_figwidth() <= distillation.WIDEST


def test_names_at_the_ends_of_lines_part():
    figure = style.new_figure(4, 3)
    panel = figure.subplots()
    panel.set(xlim=(0, 1), ylim=(0, 1))
    heights = [0.5, 0.51, 0.5, 0.9, 0.52]
    style.label_ends(panel, [(1, height, f"line {place}", "black") for place, height in enumerate(heights)])
    figure.draw_without_rendering()
    ends = sorted((Text.get_window_extent(text) for text in panel.texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(ends))
    alone = next(text for text in panel.texts if text.get_text() == "line 3")
    middle = np.mean(Text.get_window_extent(alone).intervaly)
    assert middle == pytest.approx(panel.transData.transform((1, 0.9))[1], abs=3)  # it had no reason to move


def test_seeds_are_counted_by_setting():
    runs = pd.DataFrame({"strategy": ["a", "a", "b"], "objective": "none", "seed": [0, 1, 0]})
    assert faces.seeds(runs) == "1 to 2 seeds" and faces.seeds(runs[:2]) == "2 seeds"
    assert faces.seeds(runs[2:]) == "1 seed"


@pytest.mark.parametrize(
    ("weights", "said"), [("fit", "fitted"), ("finetune", "fine-tuned"), ("random", "random weights")]
)
def test_a_face_says_where_weights_are_from(weights, said):
    data = {"dataset": "cifar100", "val": {"images": 10_000}}
    of = {"backbone": "teacher", "architecture": "cait_s24_224", "weights": weights, "images": 1000}
    assert faces.backbone(data, of) == f"cifar100 · 1,000 images · teacher (cait_s24_224), {said}"
    assert faces.backbones(data, {"a": of, "b": of}) == "cifar100 · 1,000 images · 2 backbones"
    assert faces.validated(data, of) == f"cifar100 · 10,000 validation images · teacher (cait_s24_224), {said}"
    vit = {**of, "backbone": "vit", "architecture": "vit"}
    assert faces.backbone(data, vit) == f"cifar100 · 1,000 images · vit, {said}"
