"""The authors' students, converted, against their definitions written out on the checkpoints' own keys."""

import argparse
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from stages.core.base.errors import UserError
from stages.core.base.files import sha256
from stages.core.data.splits import name_digests
from stages.core.evidence.register import read_published
from stages.paths import REFERENCE, RELEASED
from stages.tools import released
from stages.tools.released import convert
from stages.tools.released_students import Student

SMALL = {"width": 64, "wide": 128, "depth": 2, "image": 32, "patch": 16, "classes": 5}
PAPER = {"width": 192, "wide": 384, "depth": 12, "image": 224, "patch": 16, "classes": 1000}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random tensors of the size of trained ones; small at the start, so that the norms' eps matters."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if "norm" in key and key.endswith("weight"):
            state[key] = 1 + 0.1 * values
        elif key.endswith("bias"):
            state[key] = 0.1 * values
        else:
            first = any(part in key for part in ("pos_embed", "cls_token", "projections", "proj_in"))
            state[key] = values * (0.003 if first else 1 / math.sqrt(math.prod(shape[1:])))
    return state


def block_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.norm1.weight": (width,),
        f"{name}.norm1.bias": (width,),
        f"{name}.attn.qkv.weight": (3 * width, width),
        f"{name}.attn.qkv.bias": (3 * width,),
        f"{name}.attn.proj.weight": (width, width),
        f"{name}.attn.proj.bias": (width,),
        f"{name}.norm2.weight": (width,),
        f"{name}.norm2.bias": (width,),
        f"{name}.mlp.fc1.weight": (4 * width, width),
        f"{name}.mlp.fc1.bias": (4 * width,),
        f"{name}.mlp.fc2.weight": (width, 4 * width),
        f"{name}.mlp.fc2.bias": (width,),
    }


def state_of(kind: str, *, width: int, wide: int, depth: int, image: int, patch: int, classes: int):
    """A state dict with the keys and shapes of a released student of one kind."""
    last, tokens = depth - 1, 1 + (image // patch) ** 2
    deit = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(depth):
        deit |= block_shapes(f"blocks.{index}", wide if kind == "widelast" and index == last else width)
    end = wide if kind == "widelast" else width
    deit |= {"norm.weight": (end,), "norm.bias": (end,), "head.weight": (classes, end), "head.bias": (classes,)}
    if kind == "widelast":
        name = f"blocks.{last}"
        deit |= {f"{name}.proj_in.weight": (wide, width)}
        deit |= {f"{name}.proj_norm.weight": (wide,), f"{name}.proj_norm.bias": (wide,)}
    if kind == "lift":
        deit = {f"base_model.{key}": shape for key, shape in deit.items()} | {
            f"projections.{last}.weight": (wide, width),
            f"layer_norms.{last}.weight": (wide,),
            f"layer_norms.{last}.bias": (wide,),
            "head.weight": (classes, wide),
            "head.bias": (classes,),
        }
    return weights(deit)


def norm(state, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def block(state, name, x):
    images, tokens, width = x.shape
    qkv = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", x, 1e-6))
    query, key, value = qkv.reshape(images, tokens, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
    attention = torch.softmax(query @ key.transpose(-1, -2) / 8, dim=-1)
    x = x + linear(state, f"{name}.attn.proj", (attention @ value).transpose(1, 2).flatten(2))
    hidden = F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x, 1e-6)))
    return x + linear(state, f"{name}.mlp.fc2", hidden)


def forward(kind: str, state, images, depth: int, lift_eps: float = 1e-5, last_eps: float = 1e-6):
    """Logits by the definitions of the students, in float64, from a checkpoint's own keys."""
    state = {key: value.double() for key, value in state.items()}
    base = "base_model." if kind == "lift" else ""
    filters = state[f"{base}patch_embed.proj.weight"]
    x = F.conv2d(images.double(), filters, state[f"{base}patch_embed.proj.bias"], stride=filters.shape[-1])
    x = torch.cat([state[f"{base}cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    x = x + state[f"{base}pos_embed"]
    last = depth - 1
    for index in range(depth):
        name = f"{base}blocks.{index}"
        if kind == "widelast" and index == last:
            x = norm(state, f"{name}.proj_norm", linear(state, f"{name}.proj_in", x), last_eps)
        x = block(state, name, x)
    if kind == "lift":
        patches = linear(state, f"projections.{last}", x[:, 1:])
        return linear(state, "head", norm(state, f"layer_norms.{last}", patches, lift_eps).mean(dim=1))
    return linear(state, "head", norm(state, "norm", x, last_eps)[:, 0])


def saved(path: Path, state, wrapped: bool = True) -> Path:
    """Save as a training script does, or the state dict alone."""
    moments = {"state": {0: {"exp_avg": torch.zeros(3), "step": 10}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    arguments = argparse.Namespace(lr=1e-3, betas=(0.9, 0.999), output_dir="out", seeds=[0], teacher=None)
    torch.save({"model": state, "optimizer": moments, "epoch": 299, "args": arguments} if wrapped else state, path)
    return path


@pytest.fixture
def pixels():
    def make(size: int) -> torch.Tensor:
        return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))

    return make


@pytest.mark.parametrize(
    ("kind", "architecture", "parameters", "wrapped"),
    [
        ("lift", "deit_tiny_lift_patch16_224", 5_983_528, True),
        ("lift", "deit_tiny_lift_patch16_224", 5_983_528, False),
        ("widelast", "deit_tiny_widelast_patch16_224", 7_313_896, True),
        ("baseline", "deit_tiny_patch16_224", 5_717_416, False),
    ],
)
@torch.no_grad()
def test_converted_students_compute_what_their_definition_says(
    kind, architecture, parameters, wrapped, tmp_path, pixels
):
    state = state_of(kind, **PAPER)
    convert(saved(tmp_path / "released.pth", state, wrapped), tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert model.pretrained_cfg["architecture"] == architecture
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    images = pixels(224)
    expected = forward(kind, state, images, 12)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(images).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "wrong"), [("lift", {"lift_eps": 1e-6}), ("widelast", {"last_eps": 1e-5})])
@torch.no_grad()
def test_the_comparison_would_notice_a_wrong_eps(kind, wrong, pixels):
    state = state_of(kind, **PAPER)
    images = pixels(224)
    assert (forward(kind, state, images, 12) - forward(kind, state, images, 12, **wrong)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["lift", "widelast", "baseline"])
def test_only_the_norm_of_lift_has_an_eps_of_1e_5(kind, tmp_path):
    convert(saved(tmp_path / "released.pth", state_of(kind, **SMALL)), tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    eps = {name: part.eps for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)}
    lifted = {"lift_norm"} if kind == "lift" else set()
    assert {name for name, value in eps.items() if value == 1e-5} == lifted
    assert {value for name, value in eps.items() if name not in lifted} == {1e-6}


@pytest.mark.parametrize("kind", ["lift", "widelast", "baseline"])
@torch.no_grad()
def test_sizes_are_read_off_the_shapes_and_wrapper_prefixes_dropped(kind, tmp_path, pixels):
    state = state_of(kind, **SMALL)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    convert(saved(tmp_path / "released.pth", wrapped), tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    images = pixels(32)
    torch.testing.assert_close(model(images).double(), forward(kind, state, images, 2), rtol=0, atol=1e-5)


def test_the_evaluation_transform_is_the_authors(tmp_path):
    convert(saved(tmp_path / "released.pth", state_of("lift", **SMALL | {"image": 224})), tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    resize, crop = timm.data.create_transform(**timm.data.resolve_data_config(model=model)).transforms[:2]
    assert (resize.size, tuple(crop.size), resize.interpolation.value) == (256, (224, 224), "bicubic")


def test_the_unread_norm_and_head_of_lift_may_be_absent(tmp_path):
    state = {key: value for key, value in state_of("lift", **SMALL).items() if not key.startswith("base_model.head")}
    assert convert(saved(tmp_path / "released.pth", state), tmp_path / "out") == "deit_tiny_lift_patch16_224"


class Opens:
    """Opens a file for writing when it is unpickled, which makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Calls(Opens):
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(("hostile", "name"), [(Opens, "io.open"), (Calls, "posix.system")])
@pytest.mark.parametrize("place", ["args", "model", "plain"])
def test_what_would_execute_is_refused_by_name(hostile, name, place, tmp_path):
    made, file = tmp_path / "made", tmp_path / "released.pth"
    state = state_of("baseline", **SMALL)
    if place == "plain":
        file.write_bytes(pickle.dumps(hostile(made), protocol=2))
    elif place == "args":
        torch.save({"model": state, "args": argparse.Namespace(hook=hostile(made))}, file)
    else:
        torch.save({"model": state | {"head.bias": hostile(made)}}, file)
    with pytest.raises(UserError, match=re.escape(f"names the global {name}, ")) as caught:
        convert(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["released.pth"]
    # the file is as hostile as it claims: an unsafe load makes the file
    pickle.loads(file.read_bytes()) if place == "plain" else torch.load(file, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize("kind", ["lift", "widelast", "baseline"])
def test_all_wrong_keys_are_listed(kind, tmp_path):
    state = state_of(kind, **SMALL)
    base = "base_model." if kind == "lift" else ""
    del state[f"{base}cls_token"], state[f"{base}blocks.1.attn.qkv.bias"]
    state["dist_token"] = torch.zeros(1, 1, 64)
    state["head.bias"] = torch.zeros(7)
    state[f"{base}blocks.0.norm1.bias"] = 3
    with pytest.raises(UserError) as caught:
        convert(saved(tmp_path / "released.pth", state), tmp_path / "out")
    text = str(caught.value)
    assert f"missing: {base}cls_token, {base}blocks.1.attn.qkv.bias; unknown: dist_token; " in text
    assert f"{base}blocks.0.norm1.bias not a tensor instead of [64]" in text
    assert "head.bias [7] instead of [5]" in text
    assert "\n" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["released.pth"]


def test_a_projector_of_another_block_is_no_lift(tmp_path):
    state = {key.replace("projections.1", "projections.0"): value for key, value in state_of("lift", **SMALL).items()}
    with pytest.raises(UserError, match=r"missing: projections\.1\.weight; unknown: projections\.0\.weight"):
        convert(saved(tmp_path / "released.pth", state), tmp_path / "out")


def test_another_model_is_named_in_a_short_line(tmp_path):
    state = timm.create_model("resnet18", num_classes=5).state_dict()
    with pytest.raises(UserError, match=r"missing: cls_token, .* and \d+ more; unknown: conv1\.weight") as caught:
        convert(saved(tmp_path / "released.pth", state), tmp_path / "out")
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": None}, {"model": {}}, {1: torch.zeros(1)}])
def test_files_without_a_state_dict_are_named(content, tmp_path):
    torch.save(content, tmp_path / "released.pth")
    with pytest.raises(UserError, match="does not hold a state dict"):
        convert(tmp_path / "released.pth", tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"text", None])
def test_damaged_and_missing_files_are_named(damage, tmp_path):
    file = saved(tmp_path / "released.pth", state_of("baseline", **SMALL))
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    with pytest.raises(UserError, match=r"released\.pth(: no such file| cannot be read safely)") as caught:
        convert(file, tmp_path / "out")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(model: nn.Module, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    file = saved(tmp_path / "released.pth", state_of("baseline", **SMALL))
    monkeypatch.setattr(released.folders, "save", fail)
    with pytest.raises(UserError, match="no space left on the disk"):
        convert(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["released.pth"]


def test_the_command_writes_a_folder_and_refuses_a_full_one(tmp_path):
    file, out = saved(tmp_path / "released.pth", state_of("lift", **SMALL)), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "stages.tools.released", "convert", str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deit_tiny_lift_patch16_224" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(UserError, match="exists; name a new or an empty folder"):
        convert(file, out)


@pytest.fixture
def photographs(tmp_path, monkeypatch, make_split):
    """Validation images of five classes, in an empty project."""
    make_split(tmp_path / "images/val", tuple("abcde"), images=3)
    shutil.copytree(REFERENCE, tmp_path / REFERENCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "images"))
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("DEVICE", "cpu")
    return tmp_path / "images/val"


def transformed(file: Path, size: int) -> torch.Tensor:
    """The authors' evaluation transform, written out: the middle `size` pixels of size · 256 / 224, bicubic."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = math.floor(size * 256 / 224) / min(image.size)
    resized = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    pixels = np.array(resized.crop((left, top, left + size, top + size)), dtype=np.float64) / 255
    mean, std = np.array(IMAGENET_DEFAULT_MEAN), np.array(IMAGENET_DEFAULT_STD)
    return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["lift", "widelast"])
def test_students_are_evaluated_by_the_authors_transform(kind, photographs, capsys):
    state = state_of(kind, **SMALL)
    files = sorted(photographs.rglob("*.png"))
    logits = forward(kind, state, torch.stack([transformed(file, SMALL["image"]) for file in files]), SMALL["depth"])
    labels = torch.tensor(["abcde".index(file.parent.name) for file in files])
    released.evaluate_all([str(saved(Path(f"{kind}.pth"), state))], "val")
    said = capsys.readouterr().out
    expected = 100 * (logits.argmax(1) == labels).double().mean()
    assert f"{kind}.pth: deit_tiny_{kind}_patch16_224, top-1 {expected:.2f} % of 15 images" in said
    ((record, reason),) = released.evaluate([(kind, Path(f"{kind}.pth"))], photographs.parent, "val")
    assert record["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-3)
    assert "not the paper's" in reason and "embed_dim 64 instead of 192" in reason
    assert f"not recorded: {reason}" in said and not RELEASED.exists()


def test_only_the_papers_students_on_imagenets_images_are_recorded(photographs, monkeypatch):
    found = {"lift": "deit_tiny_lift_patch16_224", "widen": "deit_tiny_widelast_patch16_224"}
    arguments = {"img_size": 224, "patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    own = {"lift": {"lift_width": 384}, "widen": {"widen_width": 384, "widen_heads": 6}}
    paper, images = read_published(REFERENCE), released.Folders(photographs.parent).scan("val")
    students = {
        name: Student(architecture, arguments | own[name], 1000, nn.Identity()) for name, architecture in found.items()
    }
    assert "by their names the images are not" in released.why_not(students["lift"], "lift", images, paper)
    names = name_digests(images)
    paper["data"]["val_names_sha256"] = names["names_sha256"]
    assert "by their names" in released.why_not(students["lift"], "lift", images, paper)  # in other classes
    paper["sample"]["names_sha256"] = names["first_of_class_sha256"]
    assert [released.why_not(student, name, images, paper) for name, student in students.items()] == ["", ""]
    narrow = Student(found["lift"], arguments | {"lift_width": 256}, 1000, nn.Identity())
    assert "lift_width 256 instead of 384" in released.why_not(narrow, "lift", images, paper)
    plain = Student("deit_tiny_patch16_224", arguments, 1000, nn.Identity())
    assert released.why_not(plain, "baseline", images, paper).startswith("it is neither Lift nor WideLast")

    monkeypatch.setattr(released, "why_not", lambda *arguments: "")
    for kind in ("widelast", "lift"):
        saved(Path(f"{kind}.pth"), state_of(kind, **SMALL))
    released.evaluate_all(["widelast.pth", "lift.pth"], "val")
    kept = json.loads(RELEASED.read_text())
    assert list(kept) == ["lift", "widen"] and kept["widen"]["images"] == 15
    assert kept["lift"]["sha256"] == sha256(Path("lift.pth")) and kept["lift"]["source"] == "lift.pth"


def test_images_and_students_must_belong_together(photographs, monkeypatch):
    path = str(saved(Path("lift.pth"), state_of("lift", **SMALL | {"classes": 4})))
    with pytest.raises(UserError, match=r"val has 5 classes, lift\.pth is of 4"):
        released.evaluate_all([path], "val")
    monkeypatch.delenv("DATA_ROOT")
    with pytest.raises(UserError, match="DATA_ROOT is not set; set it to the folder that holds ImageNet's validation"):
        released.evaluate_all([path], "val")


def test_without_a_network_the_hub_is_named_with_what_to_do(photographs, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        released.evaluate_all([released.HUB], "val")
    text = str(caught.value)
    assert text.startswith(f"{released.REPOSITORY} cannot be reached (") and "\n" not in text
    assert f"from https://huggingface.co/{released.REPOSITORY} elsewhere, and name the files" in text
