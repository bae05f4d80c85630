import copy
import re
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import yaml
from dvc.utils.serialize import parse_yaml
from omegaconf import OmegaConf

from stages import check
from stages.core.analysis import registry
from stages.core.base.errors import UserError
from stages.core.base.names import Run
from stages.core.config import models, params
from stages.core.config.schema import Objective
from stages.core.models.cost import parameters
from stages.paths import CHECKED
from stages.tools import compose
from stages.tools.compose import composed

GIVEN = yaml.safe_load(composed())
NO_RECIPE = {**GIVEN["teacher"], "weights": "finetune", "recipe": None}
OPTIONAL = {"base", "model_args", "plan"}  # mappings whose keys may be left out
OPEN = {"strategies", "definitions", "options", "runs"}  # mappings whose keys are names of the user's


UNPADDED = GIVEN["recipe"]["augment"] | {"on_device": False}
RUNS = GIVEN["grid"]["runs"]["1"]
# Keys that may be left out, of an objective and elsewhere.
WITH_DEFAULT = {name for name, field in Objective.model_fields.items() if not field.is_required()}
WITH_DEFAULT |= {"keep_epochs", "depth_divisor", "copies_teacher"}


def keys(value, path=()):
    """The paths of all keys that the schema requires."""
    if not isinstance(value, dict) or (path and path[-1] in OPTIONAL):
        return
    for key, inner in value.items():
        if not (path and path[-1] in OPEN) and key not in WITH_DEFAULT:
            yield (*path, key)
        yield from keys(inner, (*path, key))


def dotted(path):
    return ".".join(path)


@pytest.fixture
def load():
    """Check params.yaml after one change: the value at a dotted key is replaced."""

    def load_changed(path, value):
        changed = copy.deepcopy(GIVEN)
        section = changed
        *outer, last = path.split(".")
        for key in outer:
            section = section[key]
        section[last] = value
        return params.check(changed, Path("params.yaml"), registry.sections())

    return load_changed


def load_text(folder, text):
    file = folder / "params.yaml"
    file.write_text(text)
    return params.load(file, registry.sections())


def test_params_are_the_composed_default(root, committed):
    """Those that are committed, or about to be: `dvc exp run -S` leaves others here."""
    assert composed() in [(place / "params.yaml").read_text() for place in (root, committed)]


def test_overrides_are_composed():
    changed = yaml.safe_load(composed("recipe.epochs=7"))
    assert changed == {**GIVEN, "recipe": {**GIVEN["recipe"], "epochs": 7}}


@pytest.mark.parametrize("group", ["objective", "strategy"])
def test_every_option_composes_to_valid_params(tmp_path, group):
    options = compose.options(group)
    chosen = load_text(tmp_path, composed(f"{group}=[{','.join(options)}]")).model_dump()[group]
    assert [*chosen["options"]] == options and all(chosen["options"].values())
    assert set(chosen["names"]) == {name for names in chosen["options"].values() for name in names}


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_teacher_that_is_not_fitted_needs_no_recipe(weights, tmp_path):
    changed = {**GIVEN, "teacher": {**GIVEN["teacher"], "weights": weights, "recipe": None}}
    assert load_text(tmp_path, yaml.safe_dump(changed)).teacher.weights == weights


def test_the_papers_backbones_and_teacher_compose(root, tmp_path):
    given = load_text(tmp_path, composed("analysis=imagenet", "teacher=imagenet"))
    paper = yaml.safe_load((root / "reports/reference/paper.yaml").read_text())
    published = paper["svd_and_pca_dims"].values()
    found = {given.teacher.architecture if name == "teacher" else name for name in given.analysis.backbones}
    assert found == {entry["timm"] for entry in published}
    assert given.analysis.img_size == {entry["timm"]: entry["img_size"] for entry in published if "img_size" in entry}
    assert (given.teacher.weights, given.analysis.weights) == ("pretrained", "pretrained")
    assert given.teacher.architecture == paper["headline"]["teacher"]
    assert given.analysis.images_per_class == 1


def test_cifar100_has_the_papers_widths(tmp_path):
    given = load_text(tmp_path, composed("profile=cifar100", "objective=core"))
    paper = load_text(tmp_path, composed("profile=imagenet"))
    cifar = given.teacher.model_args
    assert (cifar.embed_dim, cifar.num_heads, cifar.depth, cifar.img_size) == (384, 6, 12, 32)
    assert given.student.base.embed_dim == 192 and given.student.base.img_size == given.dataset.image_size == 32
    for strategy in ("lift", "widen", *given.student.ablations):
        assert given.student.strategies[strategy] == paper.student.strategies[strategy]
    assert (given.dataset.train_split, given.dataset.val_split) == ("train", "test")
    assert given.recipe.augment.on_device and given.teacher.recipe.augment.on_device
    with pytest.raises(UserError, match="auto_augment must be null"):
        load_text(tmp_path, composed("profile=cifar100", "recipe.augment.auto_augment=rand-m9-mstd0.5-inc1"))


@pytest.mark.parametrize("reader", ["folder", "tar", "hfds/mnist", "hfds/ILSVRC/imagenet-1k"])
def test_external_datasets_compose_to_valid_params(reader, tmp_path):
    given = load_text(tmp_path, composed("profile=imagenet", f"dataset.reader={reader}")).dataset
    assert (given.reader, given.label, given.classes) == (reader, "imagenet", 1000)
    assert round(given.image_size / given.crop_pct) == 256
    text = composed("dataset=folder", f"dataset.reader={reader}", "dataset.classes=10", "dataset.image_size=8")
    assert load_text(tmp_path, text).dataset.unreadable == "stop"


def test_loading_round_trips(tmp_path):
    loaded = load_text(tmp_path, composed())
    dumped = loaded.model_dump(exclude_unset=True)
    assert dumped == GIVEN
    assert load_text(tmp_path, yaml.safe_dump(dumped)) == loaded


def test_a_missing_key_is_named():
    for path in keys(GIVEN):
        changed = copy.deepcopy(GIVEN)
        section = changed
        for key in path[:-1]:
            section = section[key]
        del section[path[-1]]
        with pytest.raises(UserError, match=rf"(^params.yaml: |; ){re.escape(dotted(path))}: is missing"):
            params.check(changed, Path("params.yaml"), registry.sections())


def test_numbers_are_read_as_dvc_and_hydra_read_them(tmp_path):
    def load_lr(text):
        return load_text(tmp_path, yaml.safe_dump(GIVEN).replace("lr: 0.003", f"lr: {text}")).recipe.lr

    for text, value in {
        "3e-3": 0.003,
        "3E-3": 0.003,
        "3.0e-3": 0.003,
        "3.e-3": 0.003,
        "+1e0": 1.0,
        "1_0e-1": 1.0,
    }.items():
        assert load_lr(text) == parse_yaml(text, "params.yaml") == OmegaConf.create(f"lr: {text}").lr == value
    for text in ("'3e-3'", "3e", "e-3", "3e-3x"):
        with pytest.raises(UserError, match=r"recipe\.lr: must be a valid number \(got '"):
            load_lr(text)


@pytest.mark.parametrize(
    "path",
    [
        "epochs",
        "dataset.clases",
        "teacher.recipe.momentum",
        "teacher.model_args.width",
        "student.base.lift_wdith",
        "student.strategies.lift.args",
        "objective.definitions.mse.beta",
        "recipe.augment.vflip",
        "analysis.sep.threshold",
    ],
)
def test_an_unknown_key_is_named(path, load):
    with pytest.raises(UserError, match=f"{path}: is not a key of params.yaml".replace(".", r"\.")):
        load(path, 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("profile", 1),
        ("dataset.classes", "10"),
        ("dataset.classes", 10.0),
        ("dataset.classes", True),
        ("dataset.mean", 0.3),
        ("teacher.model_args", None),
        ("teacher.model_args.depth", "six"),
        ("recipe", []),
        ("recipe.lr", "3e-3"),
        ("recipe.clip_grad", "none"),
        ("recipe.augment.scale", 0.8),
        ("objective.definitions", None),
        ("strategy.names", "lift"),
        ("seeds", 0),
        ("seeds", None),
        ("analysis.svd.thresholds", {}),
    ],
)
def test_a_wrong_type_is_named(path, value, load):
    with pytest.raises(UserError, match=path.replace(".", r"\.")):
        load(path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset.classes", 1),
        ("dataset.reader", "imagenet"),
        ("dataset.reader", "hfds/../imagenet"),
        ("dataset.reader", "hfds/"),
        ("dataset.reader", "tfds/mnist"),
        ("dataset.columns", ["image"]),
        ("dataset.unreadable", "ignore"),
        ("dataset.train_split", "../train"),
        ("dataset.image_size", 0),
        ("dataset.crop_pct", 1.5),
        ("dataset.mean", [0.3, 0.3]),
        ("teacher.seed", -1),
        ("teacher.weights", "download"),
        ("teacher.model_args.depth", 0),
        ("student.strategies", {}),
        ("recipe.epochs", 0),
        ("recipe.global_batch", 0),
        ("recipe.lr", 0.0),
        ("recipe.lr", float("nan")),
        ("recipe.lr", float("inf")),
        ("recipe.weight_decay", -0.1),
        ("recipe.weight_decay", float("inf")),
        ("recipe.label_smoothing", 1.0),
        ("recipe.precision", "float16"),
        ("recipe.ema_decay", 1.0),
        ("recipe.ema_start", "inital"),
        ("recipe.schedule", "epochs"),
        ("recipe.decay_embeddings", "lift"),
        ("recipe.decay_embeddings", True),
        ("recipe.teacher_precision", "float32"),
        ("objective.definitions.mse.wider", "cut"),
        ("objective.definitions.projector.projector", "trained"),
        ("objective.definitions.balanced_mse.target", "whitened"),
        ("objective.definitions.mse.blocks", []),
        ("objective.definitions.mse.blocks", ["middle"]),
        ("student.strategies.widen_linear.model_args.widen_widths", []),
        ("student.strategies.widen_linear.model_args.widen_widths", [64.0, 96]),
        ("dataset.held_out", 0.0),
        ("dataset.held_out", 1.0),
        ("recipe.augment.hflip", 1.1),
        ("recipe.augment.padding", -1),
        ("recipe.augment.interpolation", "lanczos"),
        ("objective.definitions.softkd.alpha", 1.1),
        ("objective.definitions.softkd.tau", 0),
        ("objective.definitions.softkd.tau", float("inf")),
        ("objective.definitions.mse.feature", "cosine"),
        ("objective.definitions.mse.feature_weight", -1),
        ("strategy.names", []),
        ("objective.names", []),
        ("seeds", []),
        ("seeds", [2**32]),
        ("analysis.backbones", []),
        ("analysis.backbones", ["timm/vit_tiny_patch16_224"]),
        ("analysis.backbones", [".."]),
        ("analysis.weights", "fit"),
        ("analysis.img_size", {"vit_tiny_patch16_224": 0}),
        ("analysis.images_per_class", 0),
        ("analysis.svd.thresholds", [0]),
        ("analysis.pca.thresholds", [100]),
        ("analysis.sep.permutations", 0),
        ("analysis.sep.resamples", 0),
        ("analysis.svd.resamples", 0),
        ("analysis.pca.gaussian_tokens", 0),
        ("analysis.rotation.level", 100),
        ("analysis.rotation.pairs", 0),
    ],
)
def test_an_impossible_value_is_named(path, value, load):
    with pytest.raises(UserError, match=path.replace(".", r"\.")):
        load(path, value)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("dataset.val_split", "train", "dataset: train_split and val_split must not be the same"),
        (
            "dataset.train_split",
            "train-images",
            "dataset.train_split: must be of the characters A-Z, a-z, 0-9, _ and . alone, and not begin with . "
            "(got 'train-images')",
        ),
        ("dataset.std", [0.3, 0.0, 0.3], "dataset: std must be positive"),
        ("dataset.val_images", None, "dataset: val_images must be set for the embedded dataset"),
        ("dataset.columns", ["image", "label"], "dataset: columns must be null, except for a Hugging Face dataset"),
        ("dataset.reader", "folder", "dataset: val_images must be set for the embedded dataset"),
        ("teacher.model_args.num_heads", 5, "teacher.model_args: embed_dim 96 is not a multiple of num_heads 5"),
        ("student.base.patch_size", 3, "student.base: img_size 8 is not a multiple of patch_size 3"),
        ("student.strategies.uniform.model_args.embed_dim", 58, "student.strategies.uniform: embed_dim 58"),
        (
            "student.strategies.widen.model_args.widen_heads",
            7,
            "strategies.widen.model_args: widen_heads: a block",
        ),
        ("student.strategies.widen.model_args.widen_width", 98, "student.strategies.widen: num_heads: a block widened"),
        ("student.strategies.widen.model_args.widen_width", 12, "student.strategies.widen: num_heads: a block widened"),
        (
            "student.strategies.widen.model_args.widen_blocks",
            7,
            "strategies.widen: widen_blocks 7 is more than depth",
        ),
        (
            "student.strategies.widen.model_args.widen_blocks",
            5,
            "strategies.widen: widen_blocks: 5 equal steps from",
        ),
        ("student.strategies.widen_linear.model_args.widen_heads", 5, "student.strategies.widen_linear"),
        (
            "student.strategies.widen_linear.model_args.widen_widths",
            [64, 80, 96],
            "widen_linear.model_args: widen_widths lists the width of every widened block; remove widen_width",
        ),
        (
            "student.strategies.widen.model_args",
            {"widen_widths": [48] * 7},
            "strategies.widen: widen_widths lists 7 blocks, more than depth 6",
        ),
        (
            "student.strategies.widen.model_args",
            {"widen_widths": [72, 97], "widen_heads": 3},
            "widen_heads: a block widened to 97 channels cannot have 3 heads",
        ),
        (
            "student.strategies.widen.model_args",
            {"widen_widths": [96, 192]},
            "widen.model_args.widen_widths: 192 channels are more than the teacher's 96",
        ),
        (
            "objective.definitions.projector.wider",
            "pool",
            "definitions.projector: wider must be refuse where there is a projector (linear)",
        ),
        ("objective.definitions.none.projector", "linear", "definitions.none: projector is set, but feature is null"),
        (
            "objective.definitions.mse.blocks",
            ["last", "last"],
            "definitions.mse: blocks: ['last', 'last'] has the same value twice",
        ),
        ("dataset.image_size", 10, "teacher.model_args.img_size: 8 is not dataset.image_size, 10"),
        ("student.base.img_size", 10, "student.base.img_size: 10 is not dataset.image_size, 8"),
        ("student.strategies.lift.model_args.img_size", 4, "student.strategies.lift.model_args.img_size: 4 is not"),
        (
            "student.base.patch_size",
            4,
            "student.base.patch_size: patches of 4 make another grid than teacher.",
        ),
        (
            "student.strategies.lift.model_args.lift_width",
            128,
            "lift.model_args.lift_width: 128 channels are more",
        ),
        (
            "student.strategies.widen.model_args.widen_width",
            192,
            "widen.model_args.widen_width: 192 channels are",
        ),
        (
            "teacher.model_args.embed_dim",
            48,
            "lift.model_args.lift_width: 96 channels are more",
        ),
        ("student.base.embed_dim", 144, "student.base.embed_dim: 144 channels are more than the teacher's 96"),
        ("dataset.held_out", 0.1, "dataset: held_out must be null for the embedded dataset"),
        ("recipe.augment", UNPADDED | {"padding": 4}, "recipe.augment: padding needs on_device: true"),
        ("recipe.keep_epochs", [6, 13], "recipe: keep_epochs: 13 is beyond the run's 12 epochs"),
        ("recipe.keep_epochs", [6, 3], "recipe: keep_epochs [6, 3] must rise, each epoch once"),
        ("recipe.keep_epochs", [3, 3], "recipe: keep_epochs [3, 3] must rise, each epoch once"),
        ("recipe.keep_epochs", [0], "recipe.keep_epochs.0: must be greater than or equal to 1"),
        ("recipe.keep_epochs", 3, "recipe.keep_epochs: must be a list, as [3]"),
        (
            "student.strategies.lift.copies_teacher",
            True,
            "copies_teacher needs architecture: teacher, not deit_tiny_lift",
        ),
        ("student.strategies.lift.depth_divisor", 2, "depth_divisor needs architecture: teacher, not deit_tiny_lift"),
        ("student.strategies.half.model_args", {"depth": 3}, "depth_divisor and model_args.depth both set the depth"),
        ("recipe.warmup_epochs", 1000, "recipe: warmup_epochs 1000 leaves none of the"),
        ("recipe.min_lr", 0.1, "recipe: min_lr and warmup_lr must not exceed lr"),
        ("teacher.recipe.warmup_lr", 0.1, "teacher.recipe: min_lr and warmup_lr must not exceed lr"),
        ("objective.definitions.none.feature_weight", 1, "objective.definitions.none: feature_weight is set"),
        ("strategy.names", ["lift", "narrow"], "strategy.names: 'narrow' must be one of student.strategies: "),
        ("objective.names", ["cosine"], "objective.names: 'cosine' must be one of objective.definitions: "),
        ("student.ablations", ["narrow"], "student.ablations: 'narrow' must be one of student.strategies: "),
        ("strategy.names", ["lift", "lift"], "strategy.names: ['lift', 'lift'] has the same value twice"),
        ("seeds", [1, 1], "seeds: [1, 1] has the same value twice"),
        ("seeds", [0, 1, 2], "seeds: 2 is in none of grid.blocks; choose what to train by `dvc exp run -S` or"),
        ("strategy.names", ["lift", "uniform"], "strategy.names: uniform is in none of grid.blocks; choose what to"),
        ("objective.names", ["none", "gram"], "objective.names: gram is in none of grid.blocks; choose what to train"),
        ("strategy.names", ["lift", "widen"], "grid.runs: these are not the runs of grid.blocks; choose what to train"),
        ("grid.runs.1", RUNS[:-1], "grid.runs: these are not the runs of grid.blocks; choose what"),
        ("grid.runs.1", [*RUNS, RUNS[0]], "grid.runs: these are not the runs of grid.blocks; choose what"),
        ("grid.runs.1", [*RUNS[:-1], "widen-mse-0"], "grid.runs: these are not the runs of grid.blocks"),
        ("grid.runs.7", ["lift-mse-7"], "grid.runs: these are not the runs of grid.blocks; choose what"),
        ("grid.runs.1", ["lift-mse"], "grid.runs.1.0: must match pattern"),
        ("grid.runs.one", RUNS, "grid.runs.one: must match pattern"),
        ("grid.blocks", [], "strategy.names: baseline is in none of grid.blocks; choose what to train by"),
        ("grid", {"blocks": [], "runs": {"1": RUNS}}, "is in none of grid.blocks; choose what to train by"),
        ("dataset.train_split", None, "dataset: train_split must be set for the embedded dataset (digits), and where"),
        (
            "analysis.backbones",
            ["teacher", "teacher"],
            "analysis.backbones: ['teacher', 'teacher'] has the same value twice",
        ),
        ("analysis.layerwise", ["a", "a"], "analysis.layerwise: ['a', 'a'] has the same value twice"),
        ("analysis.classifiers", ["a", "a"], "analysis.classifiers: ['a', 'a'] has the same value twice"),
        ("analysis.img_size", {"teacher": 8}, "analysis: img_size: set the teacher's by teacher.model_args.img_size"),
        ("teacher.recipe", None, "teacher: weights fit needs a recipe, but recipe is null"),
        ("teacher", NO_RECIPE, "teacher: weights finetune needs a recipe, but recipe is null"),
        ("analysis.sep.thresholds", [50, 50], "analysis.sep.thresholds: [50, 50] has the same value twice"),
    ],
)
def test_inconsistent_values_are_explained(path, value, reason, load):
    with pytest.raises(UserError) as caught:
        load(path, value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("bounds", [[1.0, 0.8], [1.1, 0.9]])
@pytest.mark.parametrize("key", ["scale", "ratio"])
def test_falling_intervals_are_refused(key, bounds, load):
    with pytest.raises(UserError, match=rf"recipe\.augment.*{key}"):
        load(f"recipe.augment.{key}", bounds)


NAMES = {
    "mse_w0.5": "holds '.'",  # DVC looks for key 5 of mse_w0
    "mse[1]": r"holds '\['",
    "mse-1": "holds '-'",
    "a/b": "holds '/'",
    "a@b": "holds '@'",
    "$a": r"holds '\$'",
    "a b": "holds ' '",
    "a,b": "holds ','",
    "a=b": "holds '='",
    "a\n": r"holds '\\n'",
    "1e3": "does not begin with a letter",  # a number to DVC's YAML, and text to Python's
    "_mine": "does not begin with a letter",  # matplotlib leaves it out of legends
    "é": "holds 'é'",
    "": "does not begin with a letter",
    "No": "do not take this name for text",  # false to Python's YAML
    "nan": "do not take this name for text",  # a number to Hydra
    "a" * 65: "more than 64 characters",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["student.strategies", "objective.definitions"])
def test_names_with_a_meaning_of_their_own_are_refused_with_the_reason(kind, name):
    changed = copy.deepcopy(GIVEN)
    outer, inner = kind.split(".")
    changed[outer][inner][name] = changed[outer][inner]["baseline" if outer == "student" else "mse"]
    with pytest.raises(UserError, match=rf"^params\.yaml: {re.escape(f'{kind}.{name}')}: .*{NAMES[name]}"):
        params.check(changed, Path("params.yaml"), registry.sections())


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("US$ notes", r"holds '\$'"),
        ("a^b", r"holds '\^'"),
        ("a\\b", r"holds '\\\\'"),
        ("鸟类", "holds '鸟'"),
        ("صور", "holds 'ص'"),
        ("e\u0301tude", r"holds '.*'"),  # an accent of its own
        ("a`b", "holds '`'"),
        ("<b>", "holds '<'"),
        ("a|b", r"holds '\|'"),
        ("a*b*", r"holds '\*'"),
        ("[a](b)", r"holds '\['"),
        ("a\nb", r"holds '\\n'"),
        ("", "must begin with a letter or digit"),
        (" a", "must begin with a letter or digit"),
        ("a _b_", "must begin .* have _ within words alone"),
        ("a" * 33, "has more than 32 characters"),
    ],
)
def test_a_datasets_name_that_figures_or_pages_cannot_show_is_refused(label, reason, load):
    with pytest.raises(UserError, match=rf"^params\.yaml: dataset\.label: {reason}"):
        load("dataset.label", label)


@pytest.mark.parametrize("label", ["my_birds", "ILSVRC/imagenet-1k", "Птицы & bêtes (v2.1), 7+"])
def test_any_other_name_of_a_dataset_is_taken(label, load):
    assert load("dataset.label", label).dataset.label == label


def test_names_that_metrics_or_files_do_not_tell_apart_are_refused():
    for key, entries, name, reason in (
        ("student", "strategies", "teacher", r"student\.strategies\.teacher: metrics name the teacher so"),
        ("student", "strategies", "Lift", r"student\.strategies: lift and Lift differ by case alone"),
        ("objective", "definitions", "MSE", r"objective\.definitions: mse and MSE differ by case alone"),
    ):
        changed = copy.deepcopy(GIVEN)
        changed[key][entries][name] = changed[key][entries]["lift" if key == "student" else "mse"]
        with pytest.raises(UserError, match=reason):
            params.check(changed, Path("params.yaml"), registry.sections())


def test_a_name_on_the_command_line_is_refused_with_the_reason(tmp_path):
    """Hydra takes what follows the dot for a key within; the list of names says why that cannot be."""
    definition = "+objective.definitions.mse_w0.5={alpha: 0.0, tau: 1.0, feature: mse, feature_weight: 0.5}"
    with pytest.raises(
        UserError, match=r"objective\.names\.0: the name holds '\.', which DVC, YAML, .* take a letter"
    ) as caught:
        load_text(tmp_path, composed(definition, "objective.names=[mse_w0.5]"))
    assert str(caught.value).count("the name") == 1  # not again for each of its runs


def test_every_fault_is_named_in_one_line(tmp_path):
    changed = copy.deepcopy(GIVEN)
    changed["recipe"]["lr"] = -1
    changed["dataset"]["classes"] = 1
    del changed["seeds"]
    with pytest.raises(UserError) as caught:
        load_text(tmp_path, yaml.safe_dump(changed))
    text = str(caught.value)
    assert "\n" not in text
    assert all(fault in text for fault in ("recipe.lr: ", "(got -1)", "dataset.classes: ", "seeds: is missing"))


@pytest.mark.parametrize("text", ["", "a list", "- 1\n- 2\n", "42"])
def test_files_without_parameters_are_refused(text, tmp_path):
    with pytest.raises(UserError, match="holds no parameters"):
        load_text(tmp_path, text)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "!!python/object/apply:os.getcwd []"])
def test_what_is_not_plain_yaml_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="is not valid YAML"):
        load_text(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"params\.yaml is missing"):
        params.load(tmp_path / "params.yaml")


def test_what_no_feature_loss_compares_may_differ(load, tmp_path):
    changes = ("student.strategies.lift.model_args.lift_width=128", "student.base.patch_size=4")
    with pytest.raises(UserError, match=r"lift_width: 128 channels.*objective\.names: mse") as caught:
        load_text(tmp_path, composed(changes[0]))
    assert "\n" not in str(caught.value)
    for objective in ("none", "softkd"):
        given = load_text(tmp_path, composed(*changes, f"objective={objective}"))
        assert given.student.model("lift", given.teacher)[1]["lift_width"] == 128
    # A strategy that is not named is not trained.
    assert load_text(tmp_path, composed(changes[0], "strategy=widen", "objective=softkd_mse"))


def test_a_loss_that_pools_wider_students_takes_them(tmp_path):
    change = "student.strategies.lift.model_args.lift_width=128"
    pool = [f"objective.definitions.{name}.wider=pool" for name in ("mse", "spectral")]
    assert load_text(tmp_path, composed(change, *pool, "objective.names=[spectral,mse]"))
    for names in ("[mse,spectral]", "[spectral,mse]"):
        with pytest.raises(
            UserError, match=r"lift_width: 128 .*spectral.* set objective\.definitions\.spectral\.wider to pool"
        ):
            load_text(tmp_path, composed(change, pool[0], f"objective.names={names}"))


def test_widths_that_an_objective_cannot_compare_end_in_one_line_each(tmp_path):
    change = "student.strategies.lift.model_args.lift_width=128"
    for name in ("projector", "frozen_projector", "normalized_mse", "gram", "relation", "l1_cosine", "balanced_mse"):
        assert load_text(tmp_path, composed(change, f"objective={name}"))
    with pytest.raises(UserError) as caught:
        load_text(tmp_path, composed(change, "objective=[gram,softkd_orthogonal_projector]"))
    assert str(caught.value).endswith(
        "lift_width: 128 channels are more than the teacher's 96, and objective.names: softkd_orthogonal_projector "
        "projects orthogonally from one to the other; lower it, leave lift or softkd_orthogonal_projector out, or set "
        "objective.definitions.softkd_orthogonal_projector.projector to linear"
    )
    with pytest.raises(UserError, match=r"patch_size: patches of 4 make another grid than .*objective.names: relation"):
        load_text(tmp_path, composed("student.base.patch_size=4", "objective=relation"))


def test_a_misspelt_choice_is_one_line_that_names_the_choices(load):
    for key, value, choices in (
        ("recipe.schedule", "per_epoch", "'step' or 'epoch'"),
        ("recipe.ema_start", "inital", "'first_step' or 'initial'"),
    ):
        with pytest.raises(UserError) as caught:
            load(key, value)
        text = str(caught.value)
        assert "\n" not in text and f"{key}: " in text and choices in text and f"(got '{value}')" in text


@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [
        ("cait_s24_224", {}),  # 384 wide, patches of 16: the architecture's own, which params do not know
        ("swin_tiny_patch4_window7_224", {"embed_dim": 48, "patch_size": 4}),  # its last map is 384 wide
    ],
)
def test_widths_that_only_the_architecture_knows_are_left_to_the_training(architecture, model_args, load):
    teacher = {**GIVEN["teacher"], "architecture": architecture, "model_args": model_args}
    assert load("teacher", teacher).teacher.model_args.keyword_arguments() == model_args


def outcome(make):
    """Whether timm makes a model."""
    try:
        make()
    except (ValueError, AssertionError, ZeroDivisionError):
        return "refused"
    return "made"


@pytest.mark.parametrize("heads", [None, 2, 3, 4])
def test_widening_is_refused_where_timm_would(heads):
    own = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3}
    found = {"refused": 0, "made": 0}
    for width in (3, 6, 12, 15, 18, 20, 24, 26):
        for blocks in (1, 2, 3, 4):
            arguments = own | {"widen_width": width, "widen_blocks": blocks} | ({"widen_heads": heads} if heads else {})
            made = outcome(partial(timm.create_model, "deit_tiny_widelast_patch16_224", **arguments))
            assert outcome(partial(models.ModelArgs, **arguments)) == made, arguments
            found[made] += 1
    assert min(found.values()) > 3


@pytest.mark.parametrize("profile", ["digits", "cifar100", "cifar100_trial", "imagenet"])
def test_the_uniform_student_is_of_widens_size(profile, tmp_path):
    given = load_text(tmp_path, composed(f"profile={profile}"))
    widen, uniform = (
        parameters(timm.create_model(architecture, num_classes=given.dataset.classes, **arguments))
        for architecture, arguments in (given.student.model(name, given.teacher) for name in ("widen", "uniform"))
    )
    assert uniform == pytest.approx(widen, rel=0.03)


@pytest.mark.parametrize("profile", ["digits", "cifar100", "cifar100_trial", "imagenet"])
@pytest.mark.parametrize("strategy", ["half", "copy"])
def test_half_and_copy_are_the_teacher_at_half_its_depth(profile, strategy, tmp_path):
    given = load_text(tmp_path, composed(f"profile={profile}", f"strategy={strategy}", "objective=paper"))
    architecture, arguments = given.student.model(strategy, given.teacher)
    students, teachers = (
        timm.create_model(given.teacher.architecture, num_classes=10, **own)
        for own in (arguments, given.teacher.model_args.keyword_arguments())
    )
    assert architecture == given.teacher.architecture
    assert 2 * len(students.blocks) == len(teachers.blocks)
    reading = {
        "global_pool": "avg",
        "fc_norm": False,
    }  # of what is matched; the trial's teacher has a class token
    head = reading if (profile, strategy) == ("cifar100_trial", "half") else {}
    assert arguments | {"depth": None} == given.teacher.model_args.keyword_arguments() | {"depth": None} | head
    widths = {info["num_chs"] for model in (students, teachers) for info in model.feature_info}
    assert len(widths) == 1
    assert given.student.strategies[strategy].copies_teacher == (strategy == "copy")


def test_a_depth_that_does_not_halve_stops_only_who_trains_such_a_student(tmp_path):
    odd = "teacher.model_args.depth=5"
    assert load_text(tmp_path, composed(odd))
    for strategy in ("half", "copy"):
        with pytest.raises(UserError) as caught:
            load_text(tmp_path, composed(odd, f"strategy={strategy}"))
        expected = f"student.strategies.{strategy}.depth_divisor: the teacher's 5 blocks are not a multiple of 2"
        assert str(caught.value).endswith(expected) and "\n" not in str(caught.value)


def test_a_depth_that_no_name_tells_is_asked_for(tmp_path):
    teacher = ["teacher=imagenet", "teacher.architecture=vit_nano_patch16_224", "teacher.weights=random"]
    size = ["+teacher.model_args.img_size=8", "+teacher.model_args.patch_size=2"]
    with pytest.raises(
        UserError, match=r"half\.depth_divisor: set teacher\.model_args\.depth, to the blocks of vit_nano"
    ):
        load_text(tmp_path, composed(*teacher, *size, "strategy=half", "objective=none"))
    given = load_text(
        tmp_path, composed(*teacher, *size, "+teacher.model_args.depth=12", "strategy=half", "objective=none")
    )
    assert given.student.model("half", given.teacher)[1] == {"img_size": 8, "patch_size": 2, "depth": 6}


def test_names_tell_the_depth_that_timm_builds():
    told = {name: depth for name in timm.list_models() if (depth := models.named_depth(name))}
    assert {"cait_s24_224", "deit_small_patch16_224", "deit3_base_patch16_224"} < set(told)
    assert models.named_depth("vit_small_patch16_36x1_224") is None and models.named_depth("resnet50") is None
    for name in [*told][::6]:
        with torch.device("meta"):
            assert len(timm.create_model(name).blocks) == told[name]


def test_a_strategy_may_weigh_a_feature_loss_its_own_way(tmp_path):
    given = load_text(tmp_path, composed("+student.strategies.lift.feature_weights={mse: 20}"))
    weights = {run.setting: given.objective_of(run).feature_weight for run in given.grid.listed()}
    assert weights["lift-mse"] == 20 and weights["baseline-mse"] == weights["widen-mse"] == 0.2
    assert given.objective_of(Run("lift", "none", 0)) == given.objective.definitions["none"]
    for name, reason in (("none", "has no feature loss"), ("nope", "is none of objective.definitions")):
        expected = rf"student\.strategies\.lift\.feature_weights: {name} {reason}; remove it"
        with pytest.raises(UserError, match=expected):
            load_text(tmp_path, composed(f"+student.strategies.lift.feature_weights={{{name}: 2}}"))


def test_an_argument_that_is_not_set_identifies_nothing():
    """What identifies a trained model leaves arguments out that came later and are not set."""
    assert not {"global_pool", "fc_norm"} & models.ModelArgs(depth=3).model_dump().keys()
    assert models.ModelArgs(fc_norm=False).model_dump()["fc_norm"] is False


def test_the_stage_refuses_backbones_that_timm_does_not_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    Path("params.yaml").write_text(composed("analysis.backbones=[teacher,vit_tinny_patch16_224]"))
    with pytest.raises(
        UserError, match=r"^timm has no model vit_tinny_patch16_224; similar ones are vit_tiny_patch16_"
    ):
        check.main()
    assert not CHECKED.exists()
    Path("params.yaml").write_text(composed("analysis.backbones=[teacher,vit_tiny_patch16_224]"))
    check.main()
    assert CHECKED.exists()


FOLDER = ("dataset=folder", "dataset.classes=10", "dataset.image_size=8", "dataset.train_split=null")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (FOLDER, "dataset.train_split: null names no images to train on, but grid.runs trains students; set it"),
        ((*FOLDER, "grid=none"), "dataset.train_split: null names no images to train on, but teacher.weights is fit"),
        ((*FOLDER, "dataset.held_out=0.1"), "dataset: train_split must be set for the embedded dataset (digits), and"),
        (("experiment=analysis", "analysis.backbones=[]"), "analysis.backbones: must have at least 1 item"),
    ],
)
def test_nothing_can_be_trained_without_training_images(overrides, reason, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"params.yaml: {reason}")):
        load_text(tmp_path, composed(*overrides))
    assert load_text(tmp_path, composed("experiment=analysis")).dataset.train_split is None


VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
TEACHERS = {"weights": "artifacts/teach/model.safetensors", "config": "artifacts/teach/config.json"}
VITS = dict.fromkeys(("weights", "config"), f"artifacts/weights/{VIT}.json")


@pytest.mark.parametrize(
    ("overrides", "items", "unread"),
    [
        (
            ("experiment=analysis", f"analysis.backbones=[{VIT},vit_base_patch16_224.mae]"),
            {"weights": ["timm"], "truncation": {VIT: VITS}, "dynamics": {VIT: VITS}},
            {"teach", "train", "encode"},
        ),
        (
            ("experiment=analysis", "analysis.backbones=[vit_base_patch16_224.mae]"),
            {"weights": ["timm"]},
            {"teach", "train", "encode", "truncation", "dynamics"},
        ),
        (
            ("grid=none",),
            {"teach": ["teacher"], "truncation": {"teacher": TEACHERS}, "dynamics": {"teacher": TEACHERS}},
            {"train", "encode", "weights"},
        ),
        (
            ("analysis.classifiers=[]",),
            {
                **{"teach": ["teacher"], "encode": ["students"]},
                "dynamics": {"teacher": TEACHERS, "students": dict.fromkeys(TEACHERS, "artifacts/train")},
            },
            {"truncation", "weights"},
        ),
    ],
)
def test_stages_that_have_nothing_to_do_are_not_there(overrides, items, unread):
    """What is not there has no item, and `summarize` reads in its place what `check` writes."""
    content = yaml.safe_load(composed(*overrides))
    plan = params.check(content, Path("params.yaml")).plan
    assert list(plan["extract"]) == content["analysis"]["backbones"]
    assert {name: of for name, of in plan.items() if of and name not in ("extract", "summarize")} == items
    assert {name for name, place in plan["summarize"].items() if place == CHECKED.as_posix()} == unread


def test_a_plan_that_is_not_that_of_the_other_keys_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(composed())
    content["analysis"]["backbones"] = ["teacher", VIT]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"^params\.yaml: plan: it is not that of .* choose them by `dvc exp run -S`"):
        check.main()
    assert not CHECKED.exists()


@pytest.mark.parametrize("profile", ["digits", "cifar100_small", "cifar100", "cifar100_trial", "imagenet"])
def test_every_scale_has_every_strategy_that_is_an_option(profile):
    options = {*compose.options("strategy")} - {"all", "ablation"}
    assert options <= set(yaml.safe_load(composed(f"profile={profile}"))["student"]["strategies"])
