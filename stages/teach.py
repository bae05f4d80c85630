"""Get the teacher: fit it on the dataset, and keep it in a folder that timm opens."""

from stages.core import distributed, models, params
from stages.core.errors import run
from stages.core.files import read_json
from stages.fitting import NO_DISTILLATION, fit_and_save, vision
from stages.paths import MANIFEST, TEACH


def main() -> None:
    """Fit the teacher on the labels alone, on every GPU that is visible."""
    distributed.launch(teach, params.load())


def teach(given: params.Params) -> None:
    """One process's part of the fitting."""
    data, teacher = given.dataset, given.teacher
    with distributed.joined() as world:
        model = models.create(
            teacher.architecture, teacher.model_args.given(), seed=teacher.seed, **vision(data, teacher.recipe)
        ).to(world.device)
        fit_and_save(
            model,
            None,
            TEACH,
            world=world,
            run="teach",
            data=data,
            recipe=teacher.recipe,
            objective=NO_DISTILLATION,
            seed=teacher.seed,
            identity={
                "teacher": teacher.model_dump(),
                "dataset": data.model_dump(),
                "manifest": read_json(MANIFEST),
            },
            record={"architecture": teacher.architecture, "weights": teacher.weights},
        )


if __name__ == "__main__":
    run(main)
