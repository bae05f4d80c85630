"""Train one student: a strategy, an objective and a seed."""

import argparse

from stages.core.base.errors import run
from stages.core.base.files import read_json, sha256
from stages.core.base.names import run_name
from stages.core.config import params
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.models.copying import copy_blocks
from stages.core.runtime import distributed
from stages.core.train.fitting import fit_and_save, model_options
from stages.core.train.task import check_compatible
from stages.paths import MANIFEST, PARAMS, PREPARE, TEACH, TRAIN


def main() -> None:
    """Train the student that the command line names, with the settings of params.yaml, on every visible GPU."""
    settings = params.load(PARAMS)
    parser = argparse.ArgumentParser(description=__doc__)
    for option, names, section in (
        ("strategy", settings.student.strategies, "student.strategies"),
        ("objective", settings.objective.definitions, "objective.definitions"),
    ):
        parser.add_argument(f"--{option}", required=True, choices=list(names), help=f"one of {section} in params.yaml")
    parser.add_argument("--seed", required=True, type=int)
    arguments = parser.parse_args()
    distributed.launch(train, settings, arguments.strategy, arguments.objective, arguments.seed)


def train(settings: params.Params, strategy: str, objective_name: str, seed: int) -> None:
    """Train in one process of several."""
    with distributed.joined() as world:
        train_run(settings, strategy, objective_name, seed, world)


def train_run(settings: params.Params, strategy: str, objective_name: str, seed: int, world: distributed.World) -> None:
    """Train one student in the processes of `world` and write its folder."""
    data, objective = settings.dataset, settings.objective.definitions[objective_name]
    architecture, model_args = settings.student.model(strategy, settings.teacher)
    name = run_name(strategy, objective_name, seed)
    teacher = folders.load(TEACH).to(world.device)
    student = folders.create(architecture, model_args, seed=seed, **model_options(data, settings.recipe))
    student = student.to(world.device)
    copied = {}  # what a run that starts from the teacher's weights says of it
    if settings.student.strategies[strategy].copies_teacher:
        copied = {"copied_blocks": copy_blocks(student, teacher)}
    check_compatible(student, teacher, data.image_size, feature=objective.refuses_wider, blocks=objective.blocks)
    fit_and_save(
        student,
        teacher,
        TRAIN / name,
        world=world,
        run=name,
        train_images=image_list(data, "train", prepared=PREPARE, manifest_file=MANIFEST),
        val_images=image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST),
        data=data,
        recipe=settings.recipe,
        objective=objective,
        seed=seed,
        identity={
            "student": [architecture, model_args],
            **copied,
            "objective": objective.model_dump(),
            "seed": seed,
            "recipe": settings.recipe.model_dump(),
            "dataset": data.model_dump(),
            "manifest": read_json(MANIFEST),
            "teacher": sha256(TEACH / "model.safetensors"),
        },
        record={
            "strategy": strategy,
            "objective": objective_name,
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
