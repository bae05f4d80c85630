"""Train students, each of them a strategy, an objective and a seed.

Several that share a seed are trained side by side, from one pass over the images and one of the teacher: give the three
options once for each. Every result equals that of a command of its own.
"""

import argparse
from collections.abc import Sequence

from torch import nn

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, sha256
from stages.core.base.names import Run
from stages.core.config import params
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.models.copying import copy_blocks
from stages.core.runtime import distributed
from stages.core.train.fitting import fit_and_save, model_options
from stages.core.train.jobs import Job
from stages.core.train.task import check_compatible
from stages.paths import MANIFEST, PARAMS, PREPARE, TEACH, TRAIN

OPTIONS = ("--strategy", "--objective", "--seed")


def main() -> None:
    """Train the students that the command line names, with the settings of params.yaml, on every visible GPU."""
    settings = params.load(PARAMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, names, section in (
        ("strategy", settings.student.strategies, "student.strategies"),
        ("objective", settings.objective.definitions, "objective.definitions"),
    ):
        parser.add_argument(
            f"--{option}",
            required=True,
            action="append",
            choices=list(names),
            help=f"one of {section} in params.yaml",
        )
    parser.add_argument("--seed", required=True, action="append", type=int)
    given = list(vars(parser.parse_args()).values())
    counts = [len(values) for values in given]
    if len(set(counts)) > 1:
        found = ", ".join(f"{option} {count}" for option, count in zip(OPTIONS, counts, strict=True))
        raise UserError(f"{', '.join(OPTIONS)} belong together: give each once for every student, not {found} times")
    distributed.launch(train, settings, [Run(*values) for values in zip(*given, strict=True)])


def train(settings: params.Params, runs: Sequence[Run]) -> None:
    """Train in one process of several."""
    with distributed.joined() as world:
        train_runs(settings, runs, world)


def train_runs(settings: params.Params, cells: Sequence[Run], world: distributed.World) -> None:
    """Train students side by side in the processes of `world` and write the folder of each."""
    data = settings.dataset
    teacher = folders.load(TEACH).to(world.device)
    fit_and_save(
        [job(settings, cell, teacher, world) for cell in cells],
        teacher,
        world=world,
        train_images=image_list(data, "train", prepared=PREPARE, manifest_file=MANIFEST),
        val_images=image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST),
        data=data,
        recipe=settings.recipe,
    )


def job(settings: params.Params, cell: Run, teacher: nn.Module, world: distributed.World) -> Job:
    """A student that is to learn from `teacher`, and what decides and describes its run."""
    data, objective = settings.dataset, settings.objective.definitions[cell.objective]
    architecture, model_args = settings.student.model(cell.strategy, settings.teacher)
    student = folders.create(architecture, model_args, seed=cell.seed, **model_options(data, settings.recipe))
    student = student.to(world.device)
    copied = {}  # what a run that starts from the teacher's weights says of it
    if settings.student.strategies[cell.strategy].copies_teacher:
        copied = {"copied_blocks": copy_blocks(student, teacher)}
    check_compatible(student, teacher, data.image_size, feature=objective.refuses_wider, blocks=objective.blocks)
    return Job(
        run=cell.name,
        model=student,
        folder=TRAIN / cell.name,
        objective=objective,
        seed=cell.seed,
        identity={
            "student": [architecture, model_args],
            **copied,
            "objective": objective.model_dump(),
            "seed": cell.seed,
            "recipe": settings.recipe.model_dump(),
            "dataset": data.model_dump(),
            "manifest": read_json(MANIFEST),
            "teacher": sha256(TEACH / "model.safetensors"),
        },
        command=f"dvc repro train@{cell.name}",
        record={
            "strategy": cell.strategy,
            "objective": cell.objective,
            **objective.model_dump(),
            "architecture": architecture,
            "model_args": model_args,
            **copied,
            "width": student.feature_info[-1]["num_chs"],  # type: ignore[index]
            "teacher_weights": folders.provenance(TEACH)["weights"],
            "teacher_width": teacher.feature_info[-1]["num_chs"],  # type: ignore[index]
        },
    )


if __name__ == "__main__":
    run(main)
