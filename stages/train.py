"""Train the students of one seed side by side, from one pass over the images and one of the teacher.

Every result equals that of training the student alone. Students that were finished with the same settings are taken as
they are; training that was interrupted goes on. Exit status 75 means that it was asked to stop and has saved: the same
command goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from stages.core.base import errors
from stages.core.base.errors import UserError
from stages.core.base.files import prune, read_json, sha256
from stages.core.base.names import Run
from stages.core.config import params
from stages.core.data.dataset import image_list
from stages.core.distillation import lessons
from stages.core.distillation.lessons import Distillation
from stages.core.distillation.task import check_compatible
from stages.core.models import folders
from stages.core.models.copying import copy_blocks
from stages.core.runtime import distributed
from stages.core.train.fitting import fit_and_save, model_options
from stages.core.train.jobs import Job
from stages.paths import MANIFEST, PARAMS, PREPARE, TEACH, run_folder


def main() -> None:
    """Train the students of params.yaml that the command line names, on every visible GPU."""
    settings = params.load(PARAMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", required=True, type=int, help="one of those of grid.runs in params.yaml")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="some of the seed's runs; by default all of them")
    arguments = parser.parse_args()
    distributed.launch(train, settings, chosen(settings, arguments.seed, arguments.only), not arguments.only)


def chosen(settings: params.Params, seed: int, names: Sequence[str] | None) -> list[Run]:
    """The runs of a seed, or those of them that `names` names.

    Raises:
        UserError: params.yaml has no such run.
    """
    runs = settings.grid.of_seed(seed)
    if not runs:
        seeds = ", ".join(settings.grid.runs)
        raise UserError(f"--seed {seed}: no run of grid.runs in {PARAMS} has it; its seeds are {seeds}")
    for name in names or ():
        if name not in [run.name for run in runs]:
            raise UserError(f"--only {name}: the runs of seed {seed} are {', '.join(run.name for run in runs)}")
    return [run for run in runs if not names or run.name in names]


def train(settings: params.Params, runs: Sequence[Run], whole: bool) -> None:
    """Train in one process of several; if `runs` are the whole seed, its folder then holds no others."""
    with distributed.joined() as world:
        train_runs(settings, runs, world)
        if whole and world.is_main:
            prune(run_folder(runs[0]).parent, [run.name for run in runs])


def train_runs(settings: params.Params, runs: Sequence[Run], world: distributed.World) -> None:
    """Train students side by side in the processes of `world` and write the folder of each."""
    data = settings.dataset
    distillation = Distillation(lambda: folders.load(TEACH).to(world.device), settings.recipe, world)
    fit_and_save(
        [job(settings, run, distillation) for run in runs],
        distillation,
        world=world,
        train_images=image_list(data, "train", prepared=PREPARE, manifest_file=MANIFEST),
        val_images=image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST),
        data=data,
        recipe=settings.recipe,
    )


def job(settings: params.Params, run: Run, distillation: Distillation) -> Job:
    """A student that is to learn from a teacher, and what decides its result."""
    objective, decided = settings.objective_of(run), settings.decided(run)
    return Job(
        run=run.name,
        create=partial(create, settings, run, distillation),
        folder=run_folder(run),
        objective=objective,
        seed=run.seed,
        identity={
            **decided,  # what `check` writes for DVC
            "seed": run.seed,
            "recipe": settings.recipe.model_dump(),
            "dataset": settings.dataset.model_dump(),
            "manifest": read_json(MANIFEST),
            "teacher": sha256(TEACH / "model.safetensors"),
        },
        modules=[
            folders.module_of(decided["student"][0]),
            *(["stages.core.models.copying"] if decided["copies_teacher"] else []),
            *lessons.modules(objective),
        ],
        stage="stages.train",
        command=f"dvc repro train@{run.seed}",
    )


def create(settings: params.Params, run: Run, distillation: Distillation) -> tuple[nn.Module, Mapping[str, Any]]:
    """A student with its initial weights, and what metrics.json says of its run."""
    data, objective = settings.dataset, settings.objective_of(run)
    architecture, model_args = settings.student.model(run.strategy, settings.teacher)
    teacher = distillation.teacher
    model = folders.create(architecture, model_args, seed=run.seed, **model_options(data, settings.recipe))
    model = model.to(distillation.world.device)
    copied = {}  # what a run that starts from the teacher's weights says of it
    if settings.student.strategies[run.strategy].copies_teacher:
        copied = {"copied_blocks": copy_blocks(model, teacher)}
    compared = objective.blocks if objective.feature else ()
    check_compatible(model, teacher, data.image_size, feature=objective.refuses_wider, blocks=compared)
    return model, {
        "strategy": run.strategy,
        "objective": run.objective,
        **objective.model_dump(),
        "architecture": architecture,
        "model_args": model_args,
        **copied,
        "width": model.feature_info[-1]["num_chs"],  # type: ignore[index]
        "teacher_weights": folders.provenance(TEACH)["weights"],
        "teacher_width": teacher.feature_info[-1]["num_chs"],  # type: ignore[index]
    }


if __name__ == "__main__":
    errors.run(main)
