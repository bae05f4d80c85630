"""Transformers and convolutional networks, from random weights to the figures of the report."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from stages import analyse
from stages.core.analysis.dims import dims
from stages.core.base.files import read_json
from stages.core.evidence import analysis_tables
from stages.core.features import extraction, store
from stages.core.models import pretrained
from stages.core.report import figures as draw
from stages.core.report.notebooks import show_table
from stages.core.report.tables import representation as tables
from stages.core.runtime.distributed import World
from stages.paths import ARTIFACTS, EXTRACT
from stages.tools.compose import composed

IMAGES = 3
LEVELS = (80, 90, 95, 99)
SMALL_SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
SMALL = {  # timm's own small models of each family, and their input size
    "test_vit.r160_in1k": ({}, 64),
    "swin_tiny_patch4_window7_224.ms_in1k": (SMALL_SWIN, 64),
    "test_resnet.r160_in1k": ({}, 64),
    "test_convnext.r160_in1k": ({}, 64),
    "test_efficientnet.r160_in1k": ({}, 64),
    "test_byobnet.r160_in1k": ({}, 64),
}
ANALYSES = ("svd", "pca", "sep")
WORLD = World(0, 1, torch.device("cpu"))


def plain_maps(model, images):
    """Every block's tokens of each image, [images, tokens, channels], in float64."""
    with torch.inference_mode():
        maps = model.forward_intermediates(images, intermediates_only=True)
    return [found.flatten(2).transpose(1, 2).double().numpy() for found in maps]


def plain_dims(tokens):
    energies = np.square(np.linalg.svd(tokens, compute_uv=False))
    return dims(np.cumsum(energies, axis=1) / energies.sum(axis=1, keepdims=True), LEVELS)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working folder with the analyses of every small backbone; the tokens of all blocks by backbone."""
    folder = tmp_path_factory.mktemp("backbones")
    tokens = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = f"[{','.join(SMALL)}]"
        overrides = ("analysis.sep.permutations=3", "analysis.sep.resamples=9", "analysis.pca.gaussian_tokens=50")
        Path("params.yaml").write_text(composed(*overrides, f"analysis.backbones={names}"))
        for name, (arguments, size) in SMALL.items():
            model, provenance = pretrained.random(name, arguments, seed=0, img_size=size)
            images = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
            place = EXTRACT / name
            place.mkdir(parents=True)
            options = {"images": IMAGES, "world": WORLD, "layerwise": True, "provenance": provenance.record()}
            extraction.extract(model, [(images, None)], place, **options)
            tokens[name] = plain_maps(model, images)
            for analysis in ANALYSES:
                patch.setattr(sys, "argv", ["analyse", analysis, "--backbone", name])
                analyse.main()
    return folder, tokens


@pytest.fixture(scope="module")
def results(project):
    folder, _ = project
    folders = {name: folder / ARTIFACTS / name for name in ANALYSES}
    metrics = {name: analysis_tables.by_backbone(place, list(SMALL)) for name, place in folders.items()}
    tables = analysis_tables.of_analyses(folders, list(SMALL))
    return metrics | tables | {"curves": tables["sep_curves"]}


@pytest.mark.parametrize("name", SMALL)
def test_every_block_is_measured_as_by_numpys_svd(project, name):
    folder, tokens = project
    found = np.load(folder / ARTIFACTS / "svd" / name / "dims.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, [plain_dims(of) for of in tokens[name]])
    metrics = read_json(folder / ARTIFACTS / "svd" / name / "metrics.json")
    assert [(row["tokens"], row["channels"]) for row in metrics["blocks"]] == [of.shape[1:] for of in tokens[name]]
    ranks = [np.linalg.matrix_rank(image.astype(np.float32)) for image in tokens[name][-1]]
    assert metrics["rank"]["p99"] == pytest.approx(np.percentile(ranks, 99), abs=1e-6)
    assert [path.name for path in (folder / EXTRACT / name).glob("layer_*.npy")] == [f"layer_{len(found) - 1:02d}.npy"]
    np.testing.assert_allclose(store.last_block(folder / EXTRACT / name), tokens[name][-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_captured_energy_and_spectrum_are_those_of_the_tokens(project, results, name):
    last = project[1][name][-1]
    rows = results["energy"][results["energy"]["backbone"] == name]
    energies = np.square(np.linalg.svd(last, compute_uv=False))
    shares = np.cumsum(energies, axis=1) / energies.sum(axis=1, keepdims=True)
    figure, caption = draw.energy.captured(results["energy"], results["svd"][name])
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == len(rows)}
    for percent, label in ((50, "median image"), (1, "99 % of the images hold more")):
        expected = np.percentile(shares, percent, axis=0)
        np.testing.assert_allclose(drawn[label][: len(expected)], expected, atol=1e-5)
    assert f"`{name}`" in caption
    moment = np.einsum("itc,itd->cd", last, last)
    values = np.maximum(np.linalg.eigvalsh(moment)[::-1], 0)
    np.testing.assert_allclose(rows["eigenvalue"], values / values.sum(), atol=1e-6)
    figure, _ = draw.energy.spectrum(results["energy"], results["pca"][name])
    marked = [line.get_xdata()[0] for line in figure.axes[0].lines if "%" in str(line.get_label())]
    assert marked == list(dims(np.cumsum(values) / values.sum(), LEVELS))


@pytest.mark.parametrize("name", SMALL)
def test_histograms_count_every_image(results, name):
    figure, caption = draw.dims.ranks(results["ranks"], results["svd"][name])
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == IMAGES
    labels = [text.get_text() for text in figure.axes[0].texts]
    p99 = results["svd"][name]["rank"]["p99"]
    assert any("99th percentile" in label and label.endswith(f": {p99:g}") for label in labels)
    figure, caption = draw.dims.overlaid(results["dims"], results["svd"][name], results["pca"][name])
    assert len(figure.axes) == len(LEVELS) and f"{IMAGES} images" in caption
    rows = results["dims"][results["dims"]["backbone"] == name]
    for panel, level in zip(figure.axes, LEVELS, strict=True):
        lines = [line.get_xdata()[0] for line in panel.lines]
        of = rows[rows["threshold"] == level]
        expected = [np.percentile(of[kind].astype(int), 99) for kind in ("per_image", "shared")]
        np.testing.assert_allclose(lines, expected, atol=1e-6)


def test_stages_are_drawn_of_models_of_stages_alone(project, results):
    of_stages = [name for name in SMALL if name != "test_vit.r160_in1k"]
    assert list(dict.fromkeys(results["stage_dims"]["backbone"])) == of_stages
    for name in of_stages:
        figure, caption = draw.layers.stages(results["stage_dims"], results["svd"][name])
        assert len(figure.axes) == len(project[1][name])
        for panel, tokens in zip(figure.axes, project[1][name], strict=True):
            assert f"{tokens.shape[1]:,} tokens, {tokens.shape[2]} channels" in panel.get_title()
            p99s = [line.get_xdata()[0] for line in panel.lines]
            np.testing.assert_allclose(p99s, np.percentile(plain_dims(tokens), 99, axis=0))
        assert f"stage {len(figure.axes) - 1}:" in caption


def test_layers_of_every_backbone_stand_in_one_figure(project, results):
    figure, caption = draw.layers.layers_of_backbones(results["svd"])
    assert len(figure.axes[0].lines) == len(SMALL)
    for line, name in zip(figure.axes[0].lines, SMALL, strict=True):
        means = [plain_dims(tokens)[:, LEVELS.index(95)].mean() for tokens in project[1][name]]
        np.testing.assert_allclose(line.get_ydata(), means, atol=1e-6)
        assert line.get_xdata()[-1] == 1 and f"`{name}`" in caption
        figure_of_one, _ = draw.layers.blocks(results["svd"][name])
        assert len(figure_of_one.axes) == len(LEVELS)


def test_random_orders_are_drawn_for_every_backbone(results, capsys):
    figure, caption = draw.sep.permutation(results["curves"], results["sep"])
    left, right = figure.axes
    assert [text.get_text() for text in right.get_yticklabels()] == [f"{name} (random weights)" for name in SMALL]
    assert "100 orders" in caption and all(f"`{name}`" in caption for name in SMALL)
    curve = results["curves"].query("spectrum == 'full' and backbone == 'test_vit.r160_in1k'")
    np.testing.assert_allclose(left.lines[1].get_ydata(), curve["permuted_mean"] - curve["share_of_bins"])
    rows = tables.permutations(results["sep"])
    assert [row["backbone"] for row in rows] == list(SMALL)
    found = results["sep"]["test_vit.r160_in1k"]["permutation"]
    assert rows[0]["b(0.9), difference"].startswith(f"{found['shift']['90']:+.4f} (")
    show_table(rows, "of every backbone")
    for name in SMALL:
        figure, caption = draw.sep.sep(results["curves"], results["sep"][name], name)
        assert "one standard deviation over tokens" in caption


def of_conf(option):
    analysis = yaml.safe_load(composed("profile=imagenet", f"analysis={option}"))["analysis"]
    names = ["cait_s24_224" if name == "teacher" else name for name in analysis["backbones"]]
    assert analysis["layerwise"] == analysis["backbones"]
    return [(name, analysis["img_size"].get(name)) for name in names]


PAPERS = of_conf("imagenet") + of_conf("cnn")


def test_there_are_fourteen_of_each_kind_with_weights():
    known = set(timm.list_pretrained())
    assert len(PAPERS) == 28 == len(dict(PAPERS))
    assert {name for name, _ in PAPERS} - {"cait_s24_224", "deit_small_patch16_224"} <= known


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "size"), PAPERS)
def test_the_papers_backbones_are_measured_block_by_block(name, size, tmp_path):
    model, provenance = pretrained.random(name, {}, seed=0, img_size=size)
    side = model.pretrained_cfg["input_size"][-1]
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    options = {"images": 1, "world": WORLD, "layerwise": True, "provenance": provenance.record()}
    record = extraction.extract(model, [(image, None)], tmp_path, **options)
    *earlier, (_, last) = store.blocks(tmp_path).items()
    expected = plain_maps(model, image)
    assert [(block["tokens"], block["channels"]) for block in record["blocks"]] == [of.shape[1:] for of in expected]
    np.testing.assert_allclose(last, expected[-1], rtol=1e-3, atol=1e-3 * np.abs(expected[-1]).max())
    for (_, energies), tokens in zip(earlier, expected, strict=False):
        norms = np.square(tokens).sum((1, 2))
        np.testing.assert_allclose(energies.sum(axis=1), norms, rtol=1e-3)
        np.testing.assert_allclose(np.sqrt(energies[:, 0]), np.linalg.norm(tokens, 2, axis=(1, 2)), rtol=1e-3)


def test_long_names_of_backbones_stay_on_the_page(results):
    drawn = (
        draw.layers.layers_of_backbones(results["svd"]),
        draw.sep.sep_backbones(results["curves"], results["sep"]),
        draw.sep.permutation(results["curves"], results["sep"]),
    )
    for figure, _ in drawn:
        figure.draw_without_rendering()
        places = [text.get_window_extent() for text in figure.legends[0].get_texts()]
        places += [text.get_window_extent() for panel in figure.axes for text in (panel.title, panel.xaxis.label)]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in places if box.width)
        assert not any(a.padded(-1).overlaps(b.padded(-1)) for a, b in combinations(places[: len(SMALL)], 2))
