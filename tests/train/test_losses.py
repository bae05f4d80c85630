"""Every feature loss against its formula."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from formulas import FORMULAS
from pydantic import ValidationError

from stages.core.config import feature_losses
from stages.core.config.schema import Objective
from stages.core.distillation import lessons
from stages.core.losses import mse, spectral
from stages.core.losses.by_name import feature_loss
from stages.core.losses.soft_labels import soft_label_loss
from stages.core.train import fingerprints

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 8


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(2)
    return tuple(3 * torch.randn(3, WIDTH, 4, 6, generator=generator) + 1 for _ in range(2))


LOSSES = list(FORMULAS)
MSE = {"alpha": 0.0, "tau": 1.0, "feature": "mse", "feature_weight": 0.2}


def test_params_know_every_feature_loss_as_training_does():
    found = feature_losses.feature_losses()
    assert list(found) == sorted(LOSSES)
    for name, flags in found.items():
        loss = feature_loss(name)
        assert flags == {flag.upper() for flag in ("any_width", "whole_batch") if getattr(loss, flag)}


def test_one_more_file_is_one_more_feature_loss(tmp_path, monkeypatch):
    """Of the page that shows how to add one: its file is all that a definition needs, and no other run depends on it"""
    _, _, page = (ROOT / "stages/core/train/README.md").read_text(encoding="utf-8").partition("```python\n")
    line = page.partition("```yaml\n")[2].partition("```")[0]
    ((name, definition),) = yaml.safe_load(line).items()
    with pytest.raises(ValidationError, match="must be one of batch_normalized_mse, gram"):
        Objective(**definition)
    package = shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("conf"))
    monkeypatch.setattr(fingerprints, "PACKAGE", package)
    students = {
        feature: [*fingerprints.TRAINS, *lessons.modules(Objective(**MSE | {"feature": feature}))]
        for feature in ("mse", "gram")
    }
    before = {feature: fingerprints.code_of(modules) for feature, modules in students.items()}
    file = package / f"core/losses/{name}.py"
    file.write_text(page.partition("```")[0])
    monkeypatch.setattr(feature_losses, "LOSSES", file.parent)
    feature_losses.feature_losses.cache_clear()
    try:
        assert Objective(**definition).feature == name
    finally:
        feature_losses.feature_losses.cache_clear()
    student = torch.ones(1, WIDTH, 2, 2)
    assert runpy.run_path(str(file))["loss"](student, 3 * student).item() == pytest.approx(0, abs=1e-6)
    (package / "core/losses/gram.py").write_text("# edited")
    (package / "core/train/progress.py").write_text("# edited")
    after = {
        feature: fingerprints.code_of(modules, without=fingerprints.NOT_TRAINING)
        for feature, modules in students.items()
    }
    assert after["mse"] == {file: digest for file, digest in before["mse"].items() if file in after["mse"]}
    assert after["gram"].keys() - after["mse"].keys() == {"core/losses/gram.py"}
    assert after["gram"]["core/losses/gram.py"] != before["gram"]["core/losses/gram.py"]


@pytest.mark.parametrize("name", LOSSES)
def test_a_feature_loss_equals_its_formula(name, maps):
    assert feature_loss(name).function(*maps).item() == pytest.approx(FORMULAS[name](*maps), rel=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_feature_loss_computes_in_float32(name, maps):
    loss, half = feature_loss(name).function, [found.bfloat16() for found in maps]
    torch.testing.assert_close(loss(*half), loss(*(found.float() for found in half)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_feature_loss_is_least_at_its_target(name, maps):
    """At the target the gradient is zero, and the loss is what noise adds to."""
    _, teacher = maps
    target = {
        "normalized_mse": torch.nn.functional.layer_norm(teacher.movedim(1, -1), [WIDTH]).movedim(-1, 1),
        "pooled_smooth_l1": torch.nn.functional.layer_norm(teacher.mean((2, 3)), [WIDTH])[:, :, None, None].expand(
            teacher.shape
        ),
    }.get(name, teacher)
    student = target.clone().requires_grad_()
    at_target = feature_loss(name).function(student, teacher)
    noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))
    assert at_target < feature_loss(name).function(target + noise, teacher)
    if name != "l1_cosine":  # its cosine part pulls each token's length to no end
        at_target.backward()
        assert at_target.item() == pytest.approx(0, abs=1e-6)
        assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in LOSSES if feature_loss(name).any_width])
def test_relations_take_any_width_and_do_not_depend_on_the_basis(name, maps):
    student, teacher = maps
    rotation, _ = torch.linalg.qr(torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1)))
    wide = torch.einsum("bchw,dc->bdhw", student, rotation)
    loss = feature_loss(name).function
    torch.testing.assert_close(loss(wide, teacher), loss(student, teacher))


@pytest.mark.parametrize("columns", [4, 5, 6, 1])
def test_spectral_loss_equals_numpys(columns):
    student_map, target = torch.randn(2, 2, 3, 4, columns, generator=torch.Generator().manual_seed(0))
    assert spectral.loss(student_map, target).item() == pytest.approx(
        FORMULAS["spectral"](student_map, target), rel=1e-5
    )


def test_mse_loss_equals_the_full_spectrums_by_parseval(maps):
    spectrum = np.fft.fft2((maps[0] - maps[1]).double().numpy(), norm="ortho")
    assert mse.loss(*maps).item() == pytest.approx(np.mean(np.abs(spectrum) ** 2), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_soft_label_loss_is_torchs_divergence(tau):
    student, teacher = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher / tau), torch.distributions.Categorical(logits=student / tau)
    )
    torch.testing.assert_close(soft_label_loss(student, teacher, tau), tau**2 * divergence.mean())
