"""Train one student: a strategy, an objective and a seed."""

import argparse

from stages import arguments
from stages.core import machine, models, params
from stages.core.errors import run
from stages.core.files import read_json, sha256
from stages.core.objectives import check_compatible
from stages.fitting import fit_and_save, vision
from stages.paths import MANIFEST, TEACH, TRAIN


def main() -> None:
    """Train the student that the command line names, by params.yaml."""
    given = params.load()
    parser = argparse.ArgumentParser(description=__doc__)
    arguments.choice(parser, "strategy", list(given.student.strategies), "student.strategies")
    arguments.choice(parser, "objective", list(given.objective.definitions), "objective.definitions")
    parser.add_argument("--seed", required=True, type=int)
    asked = parser.parse_args()

    data, objective = given.dataset, given.objective.definitions[asked.objective]
    architecture, model_args = given.student.model(asked.strategy)
    name = f"{asked.strategy}-{asked.objective}-{asked.seed}"
    teacher = models.load(TEACH).to(machine.device())
    student = models.create(architecture, model_args, seed=asked.seed, **vision(data, given.recipe))
    check_compatible(student, teacher, data.image_size)
    fit_and_save(
        student,
        teacher,
        TRAIN / name,
        run=name,
        data=data,
        recipe=given.recipe,
        objective=objective,
        seed=asked.seed,
        identity={
            "student": [architecture, model_args],
            "objective": objective.model_dump(),
            "seed": asked.seed,
            "recipe": given.recipe.model_dump(),
            "dataset": data.model_dump(),
            "manifest": read_json(MANIFEST),
            "teacher": sha256(TEACH / "model.safetensors"),
        },
        record={
            "strategy": asked.strategy,
            "objective": asked.objective,
            "architecture": architecture,
            "width": student.feature_info[-1]["num_chs"],  # type: ignore[index]
            "teacher_weights": models.provenance(TEACH)["weights"],
            "teacher_width": teacher.feature_info[-1]["num_chs"],  # type: ignore[index]
        },
    )


if __name__ == "__main__":
    run(main)
