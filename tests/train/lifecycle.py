"""A project whose runs have two optimizer steps; apart from the tests, so that worker processes import little."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from unittest import mock

import torch
import yaml
from torch import nn

from stages import train
from stages.core.analysis import registry
from stages.core.base.files import write_json
from stages.core.base.names import Run
from stages.core.config import params
from stages.core.distillation import balanced_targets
from stages.core.models.cost import flops
from stages.core.runtime.distributed import World, joined, launch
from stages.core.train import fitting, outputs
from stages.paths import COST, PARAMS, REFERENCE

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = ("baseline", "lift", "widen", "uniform", "half", "copy", "widen_linear")  # one of each kind
# One of each class; the last has a projector where widths differ, and statistics of the teacher.
OBJECTIVES = ("none", "mse", "softkd", "softkd_spectral", "balanced_mse")
BALANCED = 64  # images whose features balance targets
TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3}


def stage(main: Callable[[], None], *arguments: str) -> None:
    """Run a stage's `main` in this process."""
    before = sys.argv
    sys.argv = ["stage", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def write_params(folder: Path, *, ema_decay: float | None, strategies: Mapping[int, Sequence[str]]) -> None:
    """The default's parameters at a smaller scale: a random teacher, two steps of 8 images, 20 validation images.

    Args:
        folder: of the project.
        ema_decay: of the recipe.
        strategies: that each seed trains, every one with all of `OBJECTIVES`.
    """
    from stages.tools.compose import composed  # workers need no Hydra

    content = yaml.safe_load(composed())
    content["dataset"]["val_images"] = 20
    content["teacher"] |= {"weights": "random", "recipe": None}
    content["teacher"]["model_args"]["depth"] = 2
    content["student"]["base"] |= TINY
    content["recipe"] |= {"epochs": 1, "epoch_steps": 2, "global_batch": 8, "warmup_epochs": 0}
    content["recipe"]["keep_epochs"] = [1]
    content["recipe"]["ema_decay"] = ema_decay
    content["analysis"] |= {"images_per_class": 1}
    content["analysis"]["sep"] |= {"permutations": 10, "resamples": 10}
    content["analysis"]["rotation"]["pairs"] = 10
    content["seeds"] = list(strategies)
    content["strategy"]["names"] = list(STRATEGIES)
    content["objective"]["names"] = list(OBJECTIVES)
    runs = [Run(*setting, seed) for seed, names in strategies.items() for setting in product(names, OBJECTIVES)]
    content["grid"] = {
        "blocks": [
            {"strategies": list(names), "objectives": list(OBJECTIVES), "seeds": [seed]}
            for seed, names in strategies.items()
        ],
        "runs": {str(seed): [run.name for run in runs if run.seed == seed] for seed in strategies},
    }
    (folder / PARAMS).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def start(folder: Path) -> None:
    """Run in `folder` all stages that come before the training of students, and those of the teacher's features."""
    from stages import analyse, extract, prepare, teach, truncation  # workers need none of them

    os.chdir(folder)
    stage(prepare.main)
    stage(teach.main)
    stage(extract.main, "--backbone", "teacher")
    for name in registry.NAMES:
        stage(analyse.main, name, "--backbone", "teacher")
    stage(truncation.main, "--model", "teacher")
    REFERENCE.mkdir(parents=True)
    (REFERENCE / "questions.yaml").write_bytes((ROOT / REFERENCE / "questions.yaml").read_bytes())
    write_json(COST / "metrics.json", {})  # counted on the paper's students, not on these


@contextmanager
def shortened() -> Iterator[None]:
    """What takes most of so short a run: FLOPs are counted once for each shape of a model, and targets are balanced by
    few images.
    """
    counted: dict[tuple[object, ...], int] = {}

    def counted_once(model: nn.Module, image_size: int) -> int:
        key = (type(model), image_size, *((name, value.shape) for name, value in model.state_dict().items()))
        if key not in counted:
            counted[key] = flops(model, image_size)
        return counted[key]

    with (
        mock.patch.object(fitting, "flops", counted_once),
        mock.patch.object(outputs, "flops", counted_once),
        mock.patch.object(balanced_targets, "IMAGES", BALANCED),
    ):
        yield


def train_all(folder: Path, ema_decay: Mapping[int, float | None], world: World) -> None:
    """Train the runs of some seeds; with an EMA where a seed has one, and then models are kept, too.

    Several processes train all runs of a seed side by side; one process trains them one after the other.
    """
    torch.set_num_threads(1)
    os.chdir(folder)
    settings = params.load(PARAMS)
    for seed, decay in ema_decay.items():
        kept = settings.recipe.keep_epochs if decay else []
        recipe = settings.recipe.model_copy(update={"ema_decay": decay, "keep_epochs": kept})
        runs = [run for run in settings.grid.listed() if run.seed == seed]
        for group in [runs] if world.size > 1 else [[run] for run in runs]:
            train.train_runs(settings.model_copy(update={"recipe": recipe}), group, world)


def train_together(folder: Path, ema_decay: Mapping[int, float | None]) -> None:
    """One process's part of `train_all`."""
    sys.modules["dvclive"] = None  # type: ignore[assignment]  # its curves take longer than these runs
    with joined() as world, shortened():
        train_all(folder, ema_decay, world)


def analyse(folder: Path) -> None:
    """Encode, follow block by block, and summarize the runs of a project."""
    from stages import dynamics, encode, summarize

    os.chdir(folder)
    stage(encode.main)
    for of in ("teacher", "students"):
        stage(dynamics.main, "--model", of)
    stage(summarize.main)


if __name__ == "__main__":  # FOLDER SEED:DECAY …, in as many processes as PROCESSES says
    folder, *pairs = sys.argv[1:]
    decays = {int(seed): float(decay) if decay else None for seed, _, decay in (pair.partition(":") for pair in pairs)}
    launch(train_together, Path(folder), decays)
