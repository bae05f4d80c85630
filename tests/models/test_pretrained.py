import hashlib
import json
import pickle
import sys
import time
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import save_for_hf

from stages import analyse, extract, prepare, teach
from stages.core.analysis import registry
from stages.core.base.errors import UserError
from stages.core.base.files import read_json
from stages.core.evidence.register import read_register
from stages.core.evidence.results import Results
from stages.core.evidence.verdicts import judge
from stages.core.features import extraction, store
from stages.core.models import pretrained
from stages.core.report.figures import dims as dims_figures
from stages.core.report.tables import representation as tables
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.tools.compose import composed

NAME = "test_vit.r160_in1k"  # 371,240 parameters
CONFIG = timm.get_pretrained_cfg(NAME)
CPU = torch.device("cpu")
IMAGENET = timm.data.ImageNetInfo().label_names()


@pytest.fixture
def model():
    torch.manual_seed(7)
    return timm.create_model(NAME)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub without network, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def as_safetensors(model, folder):
    save_file(model.state_dict(), folder / f"{NAME}.safetensors")
    return f"{NAME}.safetensors"


def as_pth(model, folder):
    torch.save(model.state_dict(), folder / f"{NAME}.pth")
    return f"{NAME}.pth"


def as_checkpoint(model, folder):
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / f"{NAME}.bin")
    return f"{NAME}.bin"


def as_weights_in_a_folder(model, folder):
    (folder / NAME).mkdir()
    torch.save(model.state_dict(), folder / NAME / "weights.pth")
    return f"{NAME}/weights.pth"


def as_hub_folder(model, folder):
    save_for_hf(model, str(folder / NAME), safe_serialization="both")
    return f"{NAME}/model.safetensors"


def equal(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("bring", [as_safetensors, as_pth, as_checkpoint, as_weights_in_a_folder, as_hub_folder])
def test_brought_weights_are_loaded_and_recorded(bring, model, tmp_path, offline):
    path = bring(model, tmp_path)
    found, provenance = pretrained.pretrained(NAME, {}, folder=tmp_path)
    assert equal(model, found) and not found.training
    assert provenance.record() == {
        "architecture": NAME,
        "weights": "pretrained",
        "source": f"WEIGHTS/{path}",
        "sha256": hashlib.sha256((tmp_path / path).read_bytes()).hexdigest(),
    }
    assert found.pretrained_cfg["input_size"] == CONFIG.input_size
    assert found.pretrained_cfg["mean"] == CONFIG.mean


def in_shards(model, folder, suffix=".safetensors"):
    """Weights as Hugging Face's libraries split large ones: two files and their index."""
    (folder / NAME).mkdir()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    write = save_file if suffix == ".safetensors" else torch.save
    state, named = model.state_dict(), {}
    for number, keys in enumerate((list(state)[:9], list(state)[9:]), start=1):
        file = f"{stem}-0000{number}-of-00002{suffix}"
        write({key: state[key] for key in keys}, folder / NAME / file)
        named |= dict.fromkeys(keys, file)
    index = folder / NAME / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": named}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_shards_are_read_by_their_index(suffix, model, tmp_path, offline):
    index = in_shards(model, tmp_path, suffix)
    found, provenance = pretrained.pretrained(NAME, {}, folder=tmp_path)
    assert equal(model, found) and "state_dict" not in found.pretrained_cfg
    assert provenance.source == f"WEIGHTS/{NAME}/{index.name}"
    larger, _ = pretrained.pretrained(NAME, {}, folder=tmp_path, img_size=80)
    assert larger.pos_embed.shape[1] == 5 * 5 + 1
    shards = sorted(index.parent.glob(f"*{suffix}"))
    for shard in shards:  # the digest is of all that is read
        whole = shard.read_bytes()
        write = save_file if suffix == ".safetensors" else torch.save
        write({key: value + 1 for key, value in timm.models.load_state_dict(str(shard)).items()}, shard)
        assert pretrained.pretrained(NAME, {}, folder=tmp_path)[1].sha256 != provenance.sha256
        shard.write_bytes(whole)
    assert pretrained.pretrained(NAME, {}, folder=tmp_path)[1] == provenance


def test_shards_that_are_not_whole_are_refused_in_one_line(model, tmp_path):
    index = in_shards(model, tmp_path)
    (index.parent / "model-00001-of-00002.safetensors").rename(tmp_path / "away")
    assert f"{index} names model-00001-of-00002.safetensors, not there; download" in line(tmp_path)
    (tmp_path / "away").rename(index.parent / "model-00001-of-00002.safetensors")
    save_file({"norm.weight": model.norm.weight}, index.parent / "model-00001-of-00002.safetensors")
    assert line(tmp_path).startswith(f"{index} does not hold the weights of {NAME}")
    for content in ('{"weight_map": {}}', "[]", "{"):
        index.write_text(content)
        assert str(index) in line(tmp_path)
    index.unlink()
    assert "holds shards of weights without their index; put *.safetensors.index.json there, too" in line(tmp_path)


def test_a_brought_folder_decides_head_and_transform(tmp_path, offline):
    own = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5, "input_size": (3, 32, 32)}
    model = timm.create_model(NAME, num_classes=3, img_size=32, pretrained_cfg_overlay=own)
    save_for_hf(model, str(tmp_path / NAME), safe_serialization=True)
    found, _ = pretrained.pretrained(NAME, {}, folder=tmp_path)
    assert equal(model, found) and found.num_classes == 3
    config = timm.data.resolve_model_data_config(found)
    assert (config["input_size"], tuple(config["mean"]), config["crop_pct"]) == ((3, 32, 32), (0.1, 0.2, 0.3), 0.5)


def test_weights_in_the_hubs_cache_need_no_network(model, offline):
    repository = offline / f"models--{CONFIG.hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots/0123abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abc")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    found, provenance = pretrained.pretrained(NAME, {}, folder=None)
    assert equal(model, found)
    assert provenance.source == f"{CONFIG.hf_hub_id}@0123abc"
    assert provenance.sha256 == hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()


def line(folder, name=NAME, **options):
    with pytest.raises(UserError) as caught:
        pretrained.pretrained(name, {}, folder=folder, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Malicious:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_a_checkpoint_that_would_run_code_is_refused(suffix, tmp_path, model):
    trace = tmp_path / "trace"
    torch.save({**model.state_dict(), "cls_token": Malicious(trace)}, tmp_path / f"{NAME}{suffix}")
    assert f"{tmp_path / NAME}{suffix}" in line(tmp_path)
    (tmp_path / f"{NAME}{suffix}").write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    assert f"{tmp_path / NAME}{suffix}" in line(tmp_path)
    assert not trace.exists()


def without_a_tensor(state):
    return {key: value for key, value in state.items() if key != "norm.weight"}


def of_another_width(_):
    return timm.create_model("test_vit2").state_dict()


def of_another_head(_):
    return timm.create_model(NAME, num_classes=3).state_dict()


@pytest.mark.parametrize("change", [without_a_tensor, of_another_width, of_another_head, lambda state: {}])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused_in_one_line(suffix, change, model, tmp_path):
    path = tmp_path / f"{NAME}{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(change(model.state_dict()), path)
    assert line(tmp_path).startswith(f"{path} does not hold the weights of {NAME}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("kept", [0, 5, 3000])
def test_damaged_files_are_refused_in_one_line(suffix, kept, model, tmp_path):
    path = tmp_path / f"{NAME}{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    assert line(tmp_path).startswith(f"{path} does not hold")


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / f"{NAME}.pth")
    assert "does not hold the weights" in line(tmp_path)


def test_folders_that_cannot_be_meant_are_refused(model, tmp_path):
    assert "is not a folder" in line(tmp_path / "nowhere")
    inside = tmp_path / NAME
    inside.mkdir()
    assert "holds no weights" in line(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(model.state_dict(), inside / name)
    assert "holds a.pth, b.pth: keep only the one to load" in line(tmp_path)
    save_for_hf(timm.create_model("test_vit2"), str(inside), safe_serialization=True)
    assert "describes architecture test_vit2, not test_vit" in line(tmp_path)


@pytest.mark.parametrize("folder", [None, "weights"])
def test_without_a_network_one_line_says_what_to_bring_where(folder, tmp_path, offline):
    if folder is not None:
        (tmp_path / folder).mkdir()
    text = line(None if folder is None else tmp_path / folder)
    assert f"download https://huggingface.co/{CONFIG.hf_hub_id}/resolve/main/model.safetensors" in text
    assert f"{'WEIGHTS' if folder is None else tmp_path / folder}/{NAME}.safetensors" in text
    assert "WEIGHTS" in text or folder is not None


def test_an_unreachable_hub_ends_fast(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    started = time.perf_counter()
    assert "download https://" in line(None)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        OSError("broken"),
        TimeoutError(),
        huggingface_hub.errors.LocalEntryNotFoundError("not here"),
        huggingface_hub.errors.OfflineModeIsEnabled("offline"),
        huggingface_hub.errors.HFValidationError("no such repository"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("step", ["model_info", "hf_hub_download"])
def test_whatever_fails_on_the_way_to_the_hub_ends_in_the_line(step, error, monkeypatch, offline):
    def fail(*_, **__):
        raise error

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors")])
    monkeypatch.setattr(pretrained.HfApi, "model_info", fail if step == "model_info" else lambda *_, **__: info)
    monkeypatch.setattr(pretrained, "hf_hub_download", fail)
    assert f"{NAME}.safetensors" in line(None)


def test_weights_at_a_plain_address_end_in_the_line_too(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "legacy_seresnet18.in1k"
    text = line(None, name)
    assert f"download {timm.get_pretrained_cfg(name).url} and put it at WEIGHTS/{name}.pth" in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_tinny_patch16_224", "vit_tiny_patch16_224"),
        ("test_vit.r161_in1k", "r160_in1k"),
        ("....", "timm has no model"),
        ("mine", "weights of your own, in the folder WEIGHTS, are named after their architecture"),
    ],
)
@pytest.mark.parametrize("make", [pretrained.random, pretrained.pretrained])
def test_unknown_names_are_refused_with_the_nearest(make, name, hint):
    options = {"seed": 0} if make is pretrained.random else {"folder": None}
    with pytest.raises(UserError, match="timm has no") as caught:
        make(name, {}, **options)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "vit_small_patch16_224_dino",
            r"^timm has renamed vit_small_patch16_224_dino to vit_small_patch16_224\.dino",
        ),
        (
            "vit_tiny_patch16_224_in21k",
            r"renamed vit_tiny_patch16_224_in21k to vit_tiny_patch16_224\.augreg_in21k; ",
        ),
    ],
)
def test_names_that_timm_renamed_are_refused_with_the_new_one(name, said):
    with pytest.raises(UserError, match=said):
        pretrained.check_name(name)


@pytest.mark.parametrize("bring", [as_safetensors, as_hub_folder])
def test_weights_are_located_without_being_loaded(bring, model, tmp_path, offline, monkeypatch):
    bring(model, tmp_path)
    _, loaded = pretrained.pretrained(NAME, {}, folder=tmp_path)
    monkeypatch.delattr(pretrained.timm, "create_model")
    assert pretrained.located(NAME, folder=tmp_path) == loaded


def test_missing_weights_are_said_alike_before_loading(tmp_path, offline):
    with pytest.raises(UserError) as caught:
        pretrained.located(NAME, folder=tmp_path)
    assert str(caught.value) == line(tmp_path)


def test_a_head_for_other_classes_is_refused(tmp_path, offline):
    pretrained.check_classes(NAME, 1000, folder=None)
    refused = r"^analysis\.classifiers: the head of test_vit\.r160_in1k has 1000 outputs, but dataset\.classes is 3"
    with pytest.raises(UserError, match=refused):
        pretrained.check_classes(NAME, 3, folder=tmp_path)
    with pytest.raises(UserError, match=r"the head of vit_base_patch16_224\.mae has no outputs, but"):
        pretrained.check_classes("vit_base_patch16_224.mae", 1000, folder=None)
    as_hub_folder(timm.create_model(NAME, num_classes=3), tmp_path)
    pretrained.check_classes(NAME, 3, folder=tmp_path)


def test_a_name_without_weights_asks_for_a_file():
    assert "put yours at WEIGHTS/test_maxvit.safetensors" in line(None, "test_maxvit")


def test_random_weights_depend_on_the_seed_alone_and_are_marked():
    one, provenance = pretrained.random(NAME, {}, seed=3)
    torch.rand(5)
    again, _ = pretrained.random(NAME, {}, seed=3)
    other, _ = pretrained.random(NAME, {}, seed=4)
    assert equal(one, again) and not equal(one, other)
    assert provenance.record() == {"architecture": NAME, "weights": "random", "source": None, "sha256": None}


@pytest.mark.parametrize("name", [NAME, "test_resnet.r160_in1k", "test_maxvit"])
@pytest.mark.parametrize("size", [None, 64])
def test_img_size_replaces_the_models_own(size, name):
    model, _ = pretrained.random(name, {}, seed=0, img_size=size)
    expected = (3, size or 160, size or 160)
    assert timm.data.resolve_model_data_config(model)["input_size"] == expected
    assert model(torch.zeros(1, *expected)).shape == (1, 1000)


def test_img_size_may_be_an_argument_of_the_architecture():
    model, _ = pretrained.random(NAME, {"img_size": 64}, seed=0)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 64, 64)
    assert model.pos_embed.shape[1] == 4 * 4 + 1


def test_brought_weights_are_resampled_to_img_size(model, tmp_path):
    as_safetensors(model, tmp_path)
    found, _ = pretrained.pretrained(NAME, {}, folder=tmp_path, img_size=80)
    assert found.pretrained_cfg["input_size"] == (3, 80, 80)
    assert found.pos_embed.shape[1] == 5 * 5 + 1 and model.pos_embed.shape[1] == 10 * 10 + 1
    assert torch.equal(found.blocks[-1].mlp.fc1.weight, model.blocks[-1].mlp.fc1.weight)


def test_wrong_sizes_are_refused_in_one_line(model, tmp_path):
    with pytest.raises(UserError, match=r"timm cannot make .* with depth two"):
        pretrained.random(NAME, {"depth": "two"}, seed=0)
    as_safetensors(model, tmp_path)
    with pytest.raises(UserError, match=r"does not hold the weights of .* with depth 1"):
        pretrained.pretrained(NAME, {"depth": 1}, folder=tmp_path)


SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
FAMILIES = {
    "class token": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", SMALL, 32, "blocks", 1),
    "registers": ("vit_small_patch14_reg4_dinov2.lvd142m", SMALL, 42, "blocks", 5),
    "two tokens": ("deit_tiny_distilled_patch16_224.fb_in1k", SMALL, 32, "blocks", 2),
    "norm before": ("vit_base_patch16_clip_224.openai", SMALL, 32, "blocks", 1),
    "mean of tokens": ("vit_base_patch16_224.mae", SMALL, 32, "blocks", 1),
    "self-attention before class attention": ("cait_s24_224.fb_dist_in1k", SMALL, 32, "blocks", 0),
    "stages": ("swin_tiny_patch4_window7_224.ms_in1k", SWIN, 64, "layers", 0),
}


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_patch_tokens_that_leave_each_block(family, layerwise, tmp_path):
    name, arguments, size, place, prefix = FAMILIES[family]
    model, provenance = pretrained.random(name, arguments, seed=0, img_size=size)
    with torch.no_grad():
        for parameter in model.parameters():  # no layer scale so small that blocks are equal
            parameter.add_(0.02 * torch.randn(parameter.shape))
    images = torch.randn(3, 3, size, size)
    left = []
    for block in getattr(model, place):
        block.register_forward_hook(lambda _, __, out: left.append(out.flatten(1, -2)[:, prefix:].detach().numpy()))
    model(images)
    plain = list(left)
    batches = [(images[:2], None), (images[2:], None)]
    record = extraction.extract(
        model,
        batches,
        tmp_path,
        images=3,
        world=World(0, 1, CPU),
        layerwise=layerwise,
        provenance=provenance.record() | {"source": "WEIGHTS/mine.safetensors"},
    )
    last = len(plain) - 1
    found = store.blocks(tmp_path)
    assert list(found) == (list(range(len(plain))) if layerwise else [last])
    for block, measured in found.items():
        expected = plain[block]
        if block != last:
            expected = np.square(np.linalg.svd(expected.astype(np.float64), compute_uv=False))
        assert measured.shape == expected.shape
        np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-4 * max(1, expected.max()))
    np.testing.assert_array_equal(store.last_block(tmp_path), found[last])
    names = [*(f"energies_{block:02d}.npy" for block in list(found)[:-1]), f"layer_{last:02d}.npy"]
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == names
    assert record == read_json(tmp_path / "features.json")
    assert record["input_size"] == [3, size, size] and record["weights"] == "random"
    told = store.describe(tmp_path)
    assert (told["images"], told["tokens"], told["channels"]) == plain[last].shape
    assert told["source"] == "WEIGHTS/mine.safetensors" and "sha256" in told


def test_a_model_without_intermediate_maps_is_refused(tmp_path):
    with pytest.raises(UserError, match="no forward_intermediates"):
        extraction.extract(
            torch.nn.Identity(),
            [],
            tmp_path,
            images=0,
            world=World(0, 1, CPU),
            layerwise=True,
            provenance={"architecture": "x"},
        )


@pytest.fixture
def project(tree, tmp_path, monkeypatch):
    """A working folder with prepared images of three classes; a function composes its params.yaml."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for key, value in {"DATA_ROOT": str(tree), "WORKERS": "0", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("WEIGHTS", raising=False)

    def compose(*overrides):
        dataset = ("dataset=folder", "dataset.classes=3", "dataset.image_size=8", "analysis.images_per_class=2")
        backbone = ("analysis.sep.permutations=3", "analysis.weights=random", f"analysis.backbones=[teacher,{NAME}]")
        (folder / "params.yaml").write_text(
            composed(*dataset, *backbone, "teacher.recipe.epochs=2", "teacher.recipe.global_batch=4", *overrides)
        )

    compose()
    prepare.main()
    return compose


PRETRAINED = ("teacher.weights=pretrained", "~teacher.model_args", "+teacher.model_args={}")


def run(stage, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [stage.__name__, *arguments])
    stage.main()


def test_random_weights_are_marked_in_every_metric(project, monkeypatch):
    project("teacher.weights=random", f"+analysis.img_size={{{NAME}: 32}}")
    run(teach, monkeypatch)
    taken = read_json(Path("artifacts/teach/metrics.json"))
    assert taken["weights"] == "random" and taken["input_size"] == [3, 8, 8]
    assert {"top1", "top5", "loss", "parameters", "flops"} <= set(taken)
    last = len(timm.create_model(NAME).blocks) - 1
    expected = {"teacher": ("cait_s24_224", 8, list(range(6))), NAME: (NAME, 32, [last])}
    for backbone, (architecture, size, blocks) in expected.items():
        run(extract, monkeypatch, "--backbone", backbone)
        for name in registry.NAMES:
            run(analyse, monkeypatch, name, "--backbone", backbone)
            metrics = read_json(Path("artifacts") / name / backbone / "metrics.json")
            assert (metrics["backbone"], metrics["architecture"]) == (backbone, architecture)
            assert (metrics["weights"], metrics["input_size"]) == ("random", [3, size, size])
        assert [row["block"] for row in read_json(Path(f"artifacts/svd/{backbone}/metrics.json"))["blocks"]] == blocks


def test_a_fitted_teacher_is_marked_so(project, monkeypatch):
    project("teacher.recipe.epochs=1", "teacher.recipe.epoch_steps=2", "teacher.recipe.warmup_epochs=0")
    run(teach, monkeypatch)
    assert read_json(Path("artifacts/teach/metrics.json"))["weights"] == "fit"
    run(extract, monkeypatch, "--backbone", "teacher")
    record = read_json(Path("artifacts/extract/teacher/features.json"))
    weights = Path("artifacts/teach/model.safetensors").read_bytes()
    assert (record["architecture"], record["weights"]) == ("cait_s24_224", "fit")
    assert record["sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_pretrained_teacher_is_taken_as_it_is(project, monkeypatch, tmp_path, offline):
    own = timm.create_model(NAME, num_classes=3, img_size=32, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    save_for_hf(own, str(tmp_path / "weights" / NAME), safe_serialization=True)
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "weights"))
    size = ("dataset.image_size=32", "student.base.img_size=32")
    project(*PRETRAINED, f"teacher.architecture={NAME}", *size)
    run(teach, monkeypatch)
    kept = timm.create_model("local-dir:artifacts/teach", pretrained=True)
    assert equal(own, kept)
    metrics = read_json(Path("artifacts/teach/metrics.json"))
    assert metrics["source"] == f"WEIGHTS/{NAME}/model.safetensors" and metrics["input_size"] == [3, 32, 32]


FINETUNED = ("teacher.weights=finetune", "~teacher.model_args", f"teacher.architecture={NAME}")
QUICK = (
    "teacher.recipe.epochs=1",
    "teacher.recipe.epoch_steps=2",
    "teacher.recipe.warmup_epochs=0",
    "teacher.recipe.augment.on_device=false",
)
SHOWN = {"classes": 3, "seed": 0, "image_size": 32, "crop_pct": 1.0, "interpolation": "bicubic"}


def test_embeddings_are_resampled_by_timm(model, tmp_path, offline):
    as_safetensors(model, tmp_path)
    found, _ = pretrained.to_finetune(NAME, {"img_size": 32, "patch_size": 8}, folder=tmp_path, **SHOWN)
    positions = timm.layers.resample_abs_pos_embed(model.pos_embed, (4, 4), num_prefix_tokens=model.num_prefix_tokens)
    patches = timm.layers.resample_patch_embed(model.patch_embed.proj.weight, [8, 8])
    assert torch.equal(found.pos_embed, positions) and torch.equal(found.patch_embed.proj.weight, patches)
    resized = {"pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"}
    state = found.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if key not in resized)
    assert found(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    config = found.pretrained_cfg
    assert (config["input_size"], config["crop_pct"], config["mean"]) == ((3, 32, 32), 1.0, CONFIG.mean)


def test_fine_tuning_starts_from_the_pretrained_features_and_a_head_of_its_seed(model, tmp_path, offline):
    as_safetensors(model, tmp_path)
    size = CONFIG.input_size[-1]
    one, other, again = (
        pretrained.to_finetune(NAME, {}, folder=tmp_path, **SHOWN | {"image_size": size, "seed": seed})[0]
        for seed in (0, 1, 0)
    )
    images = torch.randn(2, 3, size, size)
    assert torch.equal(one.forward_features(images), model.eval().forward_features(images))
    assert torch.equal(one.head.weight, again.head.weight) and not torch.equal(one.head.weight, other.head.weight)


def test_a_fine_tuned_teacher_says_where_it_started(project, monkeypatch, tmp_path, model, offline):
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "weights"))
    size = ("dataset.image_size=32", "student.base.img_size=32", "student.base.patch_size=8")
    project(*FINETUNED, *QUICK, *size, "+teacher.model_args={img_size: 32, patch_size: 8, depth: 6}")
    with pytest.raises(UserError, match=rf"no weights for {NAME} .*download .* and put it at .*weights/{NAME}\."):
        run(teach, monkeypatch)
    path = tmp_path / "weights" / as_safetensors(model, tmp_path / "weights")
    run(teach, monkeypatch)
    metrics, taught = read_json(Path("artifacts/teach/metrics.json")), read_json(Path("artifacts/teach/config.json"))
    started = {
        "architecture": NAME,
        "weights": "finetune",
        "source": f"WEIGHTS/{NAME}.safetensors",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert started.items() <= metrics.items() and taught["provenance"] == started and metrics["epochs"] == 1
    kept = timm.create_model("local-dir:artifacts/teach", pretrained=True)
    assert kept.num_classes == 3 and not torch.equal(kept.norm.weight, model.norm.weight)
    drift = torch.nn.functional.cosine_similarity(
        *(one.blocks[0].attn.qkv.weight.flatten() for one in (kept, model)), 0
    )
    assert drift > 0.9  # two steps from there, and not from random weights
    run(extract, monkeypatch, "--backbone", "teacher")
    record = read_json(Path("artifacts/extract/teacher/features.json"))
    assert (record["weights"], record["source"]) == ("finetune", started["source"])

    torch.manual_seed(8)
    as_safetensors(timm.create_model(NAME), tmp_path / "weights")
    before = kept.state_dict()
    run(teach, monkeypatch)  # other weights to start from: no checkpoint of the former ones is taken
    after = timm.create_model("local-dir:artifacts/teach", pretrained=True).state_dict()
    assert not torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])


def test_weights_to_fine_tune_that_are_of_another_model_or_nowhere_are_one_line(
    project, monkeypatch, tmp_path, offline
):
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    size = ("dataset.image_size=32", "student.base.img_size=32")
    project(*FINETUNED, *QUICK, *size, "+teacher.model_args={img_size: 32}")
    save_file(timm.create_model("test_vit2").state_dict(), tmp_path / f"{NAME}.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of"):
        run(teach, monkeypatch)
    project(*FINETUNED[:2], *QUICK, *size, "teacher.architecture=vit_nano", "+teacher.model_args={img_size: 32}")
    with pytest.raises(UserError, match="timm has no model vit_nano"):
        run(teach, monkeypatch)
    project(*FINETUNED[:2], *QUICK, *size, "teacher.architecture=test_vit4", "+teacher.model_args={img_size: 32}")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    with pytest.raises(UserError, match="timm has no weights for test_vit4; put yours at"):
        run(teach, monkeypatch)
    assert not Path("artifacts/teach").exists()


def test_a_teacher_of_another_head_is_refused(project, monkeypatch, tmp_path, model, offline):
    as_safetensors(model, tmp_path)
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    project(*PRETRAINED, f"teacher.architecture={NAME}")
    with pytest.raises(UserError, match=r"its head has 1000 outputs, but dataset\.classes is 3"):
        run(teach, monkeypatch)
    assert not Path("artifacts/teach").exists()


HUBS = "tench, Tinca tinca|goldfish, Carassius auratus|great white shark, white shark, man-eater, man-eating shark, "
HUBS += "Carcharodon carcharias"
NUMBERED = [f"{index} {name}" for index, name in enumerate(HUBS.split("|"))]  # as this project names a hub's classes
INDICES = [str(index) for index in range(1000)]


@pytest.mark.parametrize(
    "names", [IMAGENET, [f"{index:03d}" for index in range(1000)], HUBS.split("|"), ["Tench"], NUMBERED, INDICES]
)
def test_imagenets_classes_are_known_by_ids_words_or_indices(names):
    pretrained.check_imagenet_order(names)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([*IMAGENET[:7], *IMAGENET[8:], IMAGENET[7]], f"class 7 of the images is {IMAGENET[8]}, "),
        (sorted(str(index) for index in range(1000)), "class 0 of the images is 0, "),
        (["goldfish", "tench"], "class 0 of the images is goldfish, but that of a model"),
    ],
)
def test_classes_in_another_order_than_imagenets_are_refused(names, first):
    with pytest.raises(UserError) as caught:
        pretrained.check_imagenet_order(names)
    assert str(caught.value).startswith(first) and "\n" not in str(caught.value)


def test_a_pretrained_teacher_needs_imagenets_order(project, monkeypatch, offline):
    project(*PRETRAINED, "dataset.label=imagenet")
    with pytest.raises(UserError, match=r"put it at WEIGHTS/cait_s24_224"):  # three classes: its head will be refused
        run(teach, monkeypatch)
    manifest = Path("reports/data.json")
    manifest.write_text(json.dumps({**read_json(manifest), "class_names": [f"class{i}" for i in range(1000)]}))
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("classes: 3", "classes: 1000"))
    with pytest.raises(UserError, match="class 0 of the images is class0"):
        run(teach, monkeypatch)
    assert not Path("artifacts/teach").exists()


def test_a_missing_teacher_ends_in_the_line(project, monkeypatch, offline):
    project(*PRETRAINED)
    with pytest.raises(UserError, match=r"put it at WEIGHTS/cait_s24_224\.safetensors"):
        run(teach, monkeypatch)


def test_weights_names_a_folder(monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    assert machine.weights() is None
    monkeypatch.setenv("WEIGHTS", "~/weights")
    assert machine.weights() == Path.home() / "weights"


@pytest.fixture(scope="module")
def paper(root):
    return yaml.safe_load((root / "reports/reference/paper.yaml").read_text())


@pytest.fixture(scope="module")
def published(root):
    """Every claim by its id."""
    return {claim.id: claim for claim in read_register(root / "reports/reference")}


def measured(paper, **changes):
    """Results that equal the published figures, under the names that params give."""
    analyses = {"svd": {}, "pca": {}, "sep": {}}
    for name, of in paper["svd_and_pca_dims"].items():
        backbone = "teacher" if name == "CaiT-S24" else of["timm"]
        size = of.get("img_size", 224)
        told = {"architecture": of["timm"], "weights": "pretrained", "input_size": [3, size, size], "images": 1000}
        told |= {"source": f"timm/{of['timm']}@0123abc", **changes}
        for analysis, figures in (("svd", of["per_image"]), ("pca", of["shared"])):
            analyses[analysis][backbone] = {**told, "dims_p99": {str(key): value for key, value in figures.items()}}
        dims = {str(key): value for key, value in paper["sep_dims"][name].items()}
        analyses["sep"][backbone] = {**told, "dims": dims}
    names = [timm.data.ImageNetInfo().index_to_label_name(index) for index in range(1000)]
    data = {"dataset": "imagenet", "classes": 1000, "class_names": names}
    data |= {"val": {"images": 50_000, "first_of_class_sha256": paper["sample"]["names_sha256"]}}
    return Results(data, analyses, [], {}, {})


def of_backbones(published):
    return [claim for claim in published.values() if claim.measure in ("analysis_dims", "headline_dims")]


def test_figures_equal_to_the_published_confirm_every_claim_of_the_fourteen(published, paper):
    results = measured(paper)
    verdicts = [judge(claim, results) for claim in of_backbones(published)]
    assert len(verdicts) == 14 * (4 + 4 + 5) + 4
    of_one_image = [verdict for verdict in verdicts if verdict["id"].startswith("sep/ViT-Base (MAE)/")]
    verdicts = [verdict for verdict in verdicts if verdict not in of_one_image]
    assert len(of_one_image) == 5 and {verdict["verdict"] for verdict in of_one_image} == {"not measured"}
    assert {verdict["verdict"] for verdict in verdicts} == {"confirmed"}
    assert all(verdict["measured"] == verdict["published"] for verdict in verdicts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "random"}, "weights are random"),
        ({"weights": "fit"}, "weights are fit"),
        ({"input_size": [3, 518, 518]}, "was analysed at 518 pixels"),
        ({"images": 2000}, "was analysed on 2,000 images, the paper's sample is 1,000"),
        ({"architecture": "vit_tiny_patch16_224"}, "was not analysed"),
    ],
)
def test_another_model_confirms_and_contradicts_nothing(changes, reason, published, paper):
    results = measured(paper, **changes)
    teachers = [claim for claim in of_backbones(published) if "CaiT-S24" in claim.id + claim.statement]
    assert len(teachers) == 4 + 4 + 5 + 4
    for verdict in (judge(claim, results) for claim in teachers):
        assert verdict["verdict"] == "not measured" and reason in verdict["reason"]


def rows(paper):
    """pretrained.csv as measured: CaiT-S24 as published, a narrow one, one at another size, one of another kind."""
    of = paper["svd_and_pca_dims"]["CaiT-S24"]
    row = {"backbone": "teacher", "timm": of["timm"], "weights": "pretrained", "img_size": 224, "images": 1000}
    row |= {"tokens": 196, "D": 384, "per_image_95": 61.4, "shared_95": 302.0, "sep_50": 192, "sep_90": 346}
    dino = {"timm": "vit_base_patch14_dinov2.lvd142m", "D": 768, "img_size": 518, "backbone": "dino"}
    other = {"timm": NAME, "backbone": NAME, "weights": "random", "D": 64}
    return pd.DataFrame([row, {**row, "D": 96}, {**row, **dino}, {**row, **other}])


def test_published_figures_stand_beside_the_same_model_only(paper):
    joined = tables.with_published(rows(paper), paper)
    assert joined["name"].tolist() == ["CaiT-S24", "teacher", "dino", NAME]
    columns = [name for name in joined if name.startswith("published_")]
    assert joined[columns].iloc[0].tolist() == [61, 302, 192, 346]
    assert joined[columns].iloc[1:].isna().all(axis=None)
    shown = tables.backbones(joined)
    assert shown["per-image basis, 95 %"].tolist() == ["61.4 (61)", "61.4", "61.4", "61.4"]
    assert shown["weights"].tolist()[-1] == "random"


def test_the_figure_marks_random_weights_and_draws_every_share(paper):
    joined = tables.with_published(rows(paper), paper)
    figure, caption = dims_figures.backbones(joined)
    left = figure.axes[0]
    drawn = [collection.get_offsets()[:, 0] for collection in left.collections]
    widths = np.array([384, 96, 768, 64])
    np.testing.assert_allclose(drawn[0], 61.4 / widths)
    np.testing.assert_allclose(drawn[2], 302 / widths)
    np.testing.assert_allclose(np.ma.filled(drawn[1], np.nan), [61 / 384, np.nan, np.nan, np.nan])
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["CaiT-S24", "teacher", "dino", f"{NAME} (random weights)"]
    assert "random" in caption
    _, caption = dims_figures.backbones(joined[:1])
    assert "random" not in caption


def test_every_sep_claim_is_a_figure_of_a_named_model(published, paper):
    sep_claims = [claim for name, claim in published.items() if name.startswith("sep/")]
    assert {claim.path for claim in sep_claims} == {
        (name, str(level)) for name in paper["svd_and_pca_dims"] for level in (50, 60, 70, 80, 90)
    }
    assert all(claim.figure <= claim.backbone["D"] for claim in sep_claims)
