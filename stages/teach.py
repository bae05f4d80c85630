"""Make the teacher: fit it, from scratch or from pretrained weights, or take its weights; save it for timm to open."""

from collections.abc import Mapping
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, read_json, write_json
from stages.core.config import models, params, schema
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.models import folders, pretrained
from stages.core.models.cards import write_card
from stages.core.models.cost import flops, parameters
from stages.core.models.normalization import check_preprocessing
from stages.core.models.pretrained import Provenance
from stages.core.runtime import distributed, machine
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import evaluate
from stages.core.train.fitting import NO_DISTILLATION, LabelsAlone, fit_and_save, model_options
from stages.core.train.jobs import Job
from stages.paths import MANIFEST, PARAMS, PREPARE, TEACH

COMMAND = "dvc repro teach"
BATCH = 128  # images at a time; affects memory, not results


def main() -> None:
    """Make the teacher that params.yaml describes, on every visible GPU."""
    distributed.launch(teach, params.load(PARAMS))


def teach(settings: params.Params) -> None:
    """Make the teacher in one process of several."""
    with distributed.joined() as world:
        teacher = settings.teacher
        if world.is_main:
            verbs = {"fit": "fits", "finetune": "fine-tunes"}
            verb = verbs.get(teacher.weights, f"opens, with {teacher.weights} weights,")
            messages.begin("teach", f"{verb} {teacher.architecture}")
        if teacher.fitted and teacher.recipe is not None:
            fit(settings.dataset, teacher, teacher.recipe, world)
        else:
            load(settings.dataset, teacher, world)


def fit(data: schema.Dataset, teacher: models.Teacher, recipe: schema.Recipe, world: World) -> None:
    """Fit the teacher on the labels alone, from random or from pretrained weights.

    Raises:
        UserError: pretrained weights are not available, or not those of the architecture.
    """
    arguments, started = teacher.model_args.keyword_arguments(), {}
    if teacher.weights == "finetune":  # found, or missed, before any work
        started = {"pretrained": pretrained.located(teacher.architecture, folder=machine.weights()).record()}

    def create() -> tuple[nn.Module, Mapping[str, Any]]:
        if teacher.weights == "finetune":
            shown = data.model_dump(include={"classes", "image_size", "crop_pct", "interpolation"})
            model, provenance = pretrained.to_finetune(
                teacher.architecture, arguments, seed=teacher.seed, folder=machine.weights(), **shown
            )
        else:
            options = model_options(data, recipe)
            model = folders.create(teacher.architecture, arguments, seed=teacher.seed, **options)
            provenance = Provenance(teacher.architecture, teacher.weights)
        return model.to(world.device), provenance.record()

    job = Job(
        run="teach",
        create=create,
        folder=TEACH,
        objective=NO_DISTILLATION,
        seed=teacher.seed,
        identity={
            "teacher": teacher.model_dump(),
            "dataset": data.model_dump(),
            "manifest": read_json(MANIFEST),
            **started,
        },
        modules=[folders.module_of(teacher.architecture), *(["stages.core.models.pretrained"] if started else [])],
        stage="stages.teach",
        command=COMMAND,
    )
    fit_and_save(
        [job],
        LabelsAlone(recipe, world),
        world=world,
        train_images=image_list(data, "train", prepared=PREPARE, manifest_file=MANIFEST),
        val_images=image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST),
        data=data,
        recipe=recipe,
    )


def load(data: schema.Dataset, teacher: models.Teacher, world: World) -> None:
    """Load the teacher with pretrained or random weights, and evaluate it.

    Raises:
        UserError: the weights are not available, the head does not have `dataset.classes` outputs, or the images are
            called imagenet and their classes are not in its order.
    """
    arguments = teacher.model_args.keyword_arguments()
    if teacher.weights == "random":
        classes = {"num_classes": data.classes}
        model, provenance = pretrained.random(teacher.architecture, arguments | classes, seed=teacher.seed)
    else:
        if data.label == "imagenet" and data.classes == 1000:
            pretrained.check_imagenet_order(read_json(MANIFEST)["class_names"])
        model, provenance = pretrained.pretrained(teacher.architecture, arguments, folder=machine.weights())
    if model.num_classes != data.classes:
        raise UserError(
            f"teacher.architecture {teacher.architecture}: its head has {model.num_classes} outputs, but "
            f"dataset.classes is {data.classes}; choose another model or dataset, or fit one"
        )
    model = model.to(world.device)
    check_preprocessing(model, data.image_size)
    size = list(resolve_model_data_config(model)["input_size"])
    validation = evaluation_batches(
        image_list(data, "val", prepared=PREPARE, manifest_file=MANIFEST),
        model,
        batch=BATCH,
        workers=machine.workers(),
        world=world,
    )
    metrics = {
        **provenance.record(),
        **({"seed": teacher.seed} if teacher.weights == "random" else {}),
        "input_size": size,
        **evaluate(model, validation, world),
        "parameters": parameters(model),
        "flops": flops(model, size[-1]),
    }
    if not world.is_main:
        return
    with atomic_folder(TEACH) as out:
        folders.save(model, out, provenance.record())
        write_json(out / "metrics.json", metrics)
        write_card(out, name="teach", command=COMMAND, metrics=metrics, dataset=data.label, hub_dataset=data.on_hub)
    messages.end("teach", f"{teacher.weights} weights, top-1 {metrics['top1']:.2f} %", TEACH)


if __name__ == "__main__":
    run(main)
