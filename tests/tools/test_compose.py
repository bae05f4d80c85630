"""params.yaml is composed whole, or left as it is with one line that says why."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.core.base.errors import UserError
from stages.core.config import params
from stages.tools import compose

PROFILES = "cifar100, cifar100_small, cifar100_trial, digits, imagenet"


@pytest.fixture
def call(tmp_path, root, monkeypatch):
    """Run the module in a folder whose params.yaml is old, as the shell would."""
    (tmp_path / "params.yaml").write_text("old: true\n")
    monkeypatch.setenv("PYTHONPATH", str(root))

    def run(*overrides):
        command = [sys.executable, "-m", "stages.tools.compose", *overrides]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_overrides_are_written(call, tmp_path):
    ended = call("profile=cifar100", "recipe.epochs=7", "strategy=[lift,widen]", "objective=mse", "seeds=[0]")
    assert (ended.returncode, ended.stdout) == (
        0,
        "compose: profile cifar100, 2 runs; `dvc repro` trains them -> params.yaml\n",
    )
    written = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert (written["profile"], written["recipe"]["epochs"]) == ("cifar100", 7)


def test_a_fault_is_one_line_and_leaves_the_file(call, tmp_path):
    ended = call("recipe.epoch=3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: recipe.epoch: no such key; recipe has augment, ")
    assert ended.stderr.count("\n") == 1 and " epochs, " in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert (tmp_path / "params.yaml").read_text() == "old: true\n"


def test_impossible_parameters_are_not_written(call, tmp_path):
    for override, reason in {
        "seeds=0": "seeds: must be a list, as [0]; grid.blocks.0.seeds: must be a list, as [0]",
        "analysis.backbones=teacher": "analysis.backbones: must be a list, as [teacher]",
        "+recipe.momentum=1": "recipe.momentum: is not a key of params.yaml; correct its spelling or remove it",
    }.items():
        ended = call(override)
        assert (ended.returncode, ended.stderr) == (1, f"error: params.yaml: {reason}\n")
    assert (tmp_path / "params.yaml").read_text() == "old: true\n"


@pytest.mark.parametrize("group", ["strategy", "objective"])
def test_several_options_select_what_each_of_them_selects(group, request):
    options = compose.options(group)
    options = options if request.config.getoption("nightly") else options[:: max(1, len(options) // 6)]
    alone = {option: yaml.safe_load(compose.composed(f"{group}={option}"))[group] for option in options}
    assert [chosen["label"] for chosen in alone.values()] == options
    for chosen in (options, options[::-1]):
        together = yaml.safe_load(compose.composed(f"{group}=[{','.join(chosen)}]"))[group]
        names = [name for option in chosen for name in alone[option]["names"]]
        assert together["names"] == sorted(set(names), key=names.index)
        assert together["label"] == "+".join(chosen)


SETTINGS = [
    *(f"baseline-{objective}" for objective in ("none", "mse", "projector", "frozen_projector", "gram", "softkd")),
    *(f"lift-{objective}" for objective in ("none", "mse", "normalized_mse", "softkd")),
    *(f"widen-{objective}" for objective in ("none", "mse", "softkd", "softkd_mse")),
    *("uniform-none", "half-none", "half-mse"),
]


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        ([], SETTINGS),
        (["strategy=widen"], [name for name in SETTINGS if name.startswith("widen-")]),
        (["objective=[none,gram]"], [name for name in SETTINGS if name.endswith(("-none", "-gram"))]),
    ],
)
def test_a_grid_names_its_settings(overrides, settings):
    content = yaml.safe_load(compose.composed("grid=controls", "seeds=[0,1,2]", *overrides))
    runs = params.check(content, Path("params.yaml")).grid.listed()
    assert {run.name for run in runs} == {f"{setting}-{seed}" for setting in settings for seed in range(3)}
    assert {seed: len(names) for seed, names in content["grid"]["runs"].items()} == {
        seed: len(settings) for seed in ("0", "1", "2")
    }


TRIAL = [
    *(f"{name}-{loss}" for name in ("baseline", "widen", "lift", "pooled", "widen_pooled") for loss in ("none", "mse")),
    *(f"{name}-{loss}" for name in ("half", "uniform") for loss in ("none", "mse")),
    *("baseline-principal_mse", "baseline-projector", "pooled-projector", "baseline-gram"),
    *(f"{name}-{loss}" for name in ("baseline", "widen") for loss in ("softkd", "softkd_mse")),
]


@pytest.mark.parametrize("profile", ["cifar100_trial", "imagenet"])
def test_the_trial_separates_width_reading_target_and_loss(profile):
    content = yaml.safe_load(compose.composed(f"profile={profile}", "grid=trial"))
    given = params.check(content, Path("params.yaml"))
    assert {run.setting for run in given.grid.listed()} == set(TRIAL)
    for plain, pooled in (("baseline", "pooled"), ("widen", "widen_pooled")):  # they differ in reading alone
        (kind, arguments), (other, others) = (given.student.model(name, given.teacher) for name in (plain, pooled))
        assert kind == other and others == arguments | {"global_pool": "avg", "fc_norm": False}


def test_the_sweep_has_four_weights_of_every_feature_loss_of_the_trial():
    content = yaml.safe_load(compose.composed("profile=cifar100_trial", "grid=weights", "dataset.held_out=0.1"))
    given = params.check(content, Path("params.yaml"))
    swept: dict[str, set[float]] = {}
    for run in given.grid.listed():
        objective = given.objective_of(run)
        base = re.sub(r"_w[0-9_]+$", "", run.objective)
        swept.setdefault(f"{run.strategy}-{base}", set()).add(objective.feature_weight)
        as_defined = given.objective.definitions[base].model_copy(update={"feature_weight": objective.feature_weight})
        assert objective == as_defined
    alone = {name for name in TRIAL if "softkd" not in name}
    assert swept == {name: {0.0} if name.endswith("-none") else {0.2, 2, 20, 200} for name in alone}
    assert given.seeds == [0]


@pytest.mark.parametrize(
    ("name", "spelled_out"),
    [
        ("paper", ["profile=imagenet", "objective=paper"]),
        ("controls", ["profile=cifar100_small", "grid=controls"]),
        ("trial", ["profile=cifar100_trial", "grid=trial"]),
        ("weights", ["profile=cifar100_trial", "grid=weights", "dataset.held_out=0.1"]),
    ],
)
def test_a_preset_is_a_whole_experiment(name, spelled_out):
    assert compose.composed(f"experiment={name}") == compose.composed(*spelled_out)
    assert yaml.safe_load(compose.composed(f"experiment={name}", "profile=digits"))["profile"] == "digits"


def test_a_grid_may_have_more_seeds_for_some(tmp_path):
    more = "{seeds: [2, 3], strategies: [lift, widen], objectives: [mse]}"
    whole = "{strategies: [baseline, lift, widen], objectives: [none, mse], seeds: [0]}"
    content = yaml.safe_load(compose.composed("seeds=[0]", f"grid.blocks=[{whole}, {more}]"))
    names = [run.name for run in params.check(content, Path("params.yaml")).grid.listed()]
    widen = ["widen-none-0", "widen-mse-0", "widen-mse-2", "widen-mse-3"]
    lift = ["lift-none-0", "lift-mse-0", "lift-mse-2", "lift-mse-3"]
    assert names == ["baseline-none-0", "baseline-mse-0", *lift, *widen]


@pytest.mark.processes
def test_dvc_composes_several_options_as_compose_does(root, tmp_path):
    output = tmp_path / "params.yaml"
    overrides = ["strategy=[baseline,lift]", "grid=controls", "recipe.lr=1e-3"]
    configured = configparser.ConfigParser()
    configured.read_string("".join(line.lstrip() for line in (root / ".dvc/config").open()))
    folder, plugins = (str(root / configured["hydra"][key]) for key in ("config_dir", "plugins_path"))
    arguments = [str(output), folder, None, "config", plugins, overrides]
    program = f"from dvc.utils.hydra import compose_and_dump\ncompose_and_dump(*{arguments})"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    assert output.read_text() == compose.composed(*overrides)


def test_help_says_in_one_line_what_it_does(call, tmp_path):
    ended = call("--help")
    assert ended.returncode == 0 and "Compose stages/conf into params.yaml" in ended.stdout
    assert (tmp_path / "params.yaml").read_text() == "old: true\n"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["profile=cifar"],
            "profile=cifar: profile has no such option; it has " + PROFILES,
        ),
        (
            ["objective=nope"],
            "objective=nope: objective has no such option; it has balanced_mse, controls",
        ),
        (["strategy=[all,nope]"], "strategy=nope: strategy has no such option; it has ablation, all, baseline"),
        (
            ["recipe@teacher.recipe=nope"],
            "recipe=nope: recipe has no such option; it has " + PROFILES,
        ),
        (["recipe=5"], "recipe=5: recipe has no such option; it has " + PROFILES),
        (
            ["profile=null"],
            "profile=null: profile has no such option; it has " + PROFILES,
        ),
        (["profile=digits,imagenet"], "profile=digits,imagenet: profile has no such option; it has " + PROFILES),
        (["profile=[digits,imagenet]"], "profile=[digits,imagenet]: name one option; only experiment, objective, "),
        (["recipe@teacher.recipe=[digits]"], "recipe@teacher.recipe=[digits]: name one option; only experiment"),
        (["strategy=lift,widen"], "strategy=lift,widen: several options are written as strategy=[lift,widen]"),
        (
            ["profil=digits"],
            "profil: no such key; params.yaml has analysis, dataset, experiment, grid, objective, plan, profile",
        ),
        (["recipe.augment.vflip=1"], "recipe.augment.vflip: no such key; recipe.augment has auto_augment, "),
        (["recipe.lr.x=1"], "recipe.lr.x: no such key; recipe has augment, "),
        (["recipe.epochs=2", "a.b=1", "recipe.epoch=3"], "recipe.epoch: no such key; recipe has augment, "),
        (
            ["student.strategies.wide.architecture=x"],
            "student.strategies.wide.architecture: no such key; student.strat",
        ),
        (["recipe.lr=[1"], "recipe.lr=[1: no viable alternative at input"),
        (["recipe.lr"], "recipe.lr: Error parsing override 'recipe.lr'"),
        (["~nope"], "~nope: Could not delete from config. 'nope' does not exist."),
        (["recipe.lr=${nope.x}"], "recipe.lr=${nope.x}: Interpolation key 'nope.x' not found"),
        (["recipe.lr=${nope:1}"], "recipe.lr=${nope:1}: Unsupported interpolation type nope"),
        (["dataset=folder"], "dataset.classes, dataset.image_size: no value yet; add KEY=VALUE for each"),
    ],
)
def test_what_cannot_be_composed_is_named_with_what_there_is(overrides, reason):
    with pytest.raises(UserError) as caught:
        compose.composed(*overrides)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("objective.definitions.heavy.alpha", "; a new one is added by +objective.definitions.heavy={…}"),
        ("student.strategies.wide", "; a new one is added by +student.strategies.wide={…}"),
        ("recipe.epoch", "warmup_lr, weight_decay"),
    ],
)
def test_a_key_of_ones_own_is_told_how_to_be_added(key, way):
    with pytest.raises(UserError, match=rf"{key}: no such key; .*{re.escape(way)}$"):
        compose.composed(f"{key}=1")
