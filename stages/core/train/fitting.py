"""Fit a model by a recipe, resumably, and save it with its metrics: what `teach` and `train` share."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import Subset

from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder, write_csv, write_json
from stages.core.config.schema import Dataset, Objective, Recipe
from stages.core.data.batches import Images, evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.data.loader import Loader
from stages.core.data.unreadable import SkippingImages
from stages.core.models import folders
from stages.core.models.cost import flops, parameters
from stages.core.models.students import ALTERED
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train import balancing, compilation
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder, sigterm_deferred
from stages.core.train.evaluation import check_finite, evaluate, evaluate_against_teacher
from stages.core.train.loop import PRECISIONS, History, fit
from stages.core.train.losses import WHOLE_BATCH
from stages.core.train.resident import Augmentation, ResidentBatches
from stages.core.train.sampler import EpochSampler
from stages.core.train.task import MapDistillationTask, bare_model, create_task

EPOCH_CHECKPOINT_S = 30.0  # so that epochs of a second do not all wait for the disk
NO_DISTILLATION = Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0)


def model_options(data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `folders.create` that follow from dataset and recipe."""
    names = {"classes", "image_size", "crop_pct", "interpolation", "mean", "std"}
    return {**data.model_dump(include=names), "position_std": recipe.position_std}


def teacher_precision(recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `create_task` for `recipe.teacher_precision`."""
    precision = PRECISIONS[recipe.precision]
    if recipe.teacher_precision == "rounded" or precision == torch.float32:
        return {"teacher_dtype": precision, "teacher_autocast": None}
    return {"teacher_dtype": torch.float32, "teacher_autocast": precision}


def decays_embeddings(recipe: Recipe, model: nn.Module) -> bool:
    """Whether a recipe decays the position embedding and the class token of a model."""
    return recipe.decay_embeddings == "lift_and_widen" and isinstance(model, ALTERED)


def best_epoch(history: History) -> dict[str, float]:
    """The highest validation top-1 of all epochs and the first epoch (from 0) that reaches it.

    The authors' scripts keep and print the best epoch's; this project saves and reports the last epoch's weights.
    """
    best = max(history, key=lambda metrics: metrics["top1"])
    return {"top1_best": best["top1"], "top1_best_epoch": best["epoch"]}


@contextmanager
def live_log(folder: Path) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that appends one epoch's metrics to DVCLive's curves in `folder`, which start empty."""
    try:
        from dvclive import Live
    except ImportError:  # training does not need DVC; curves.csv is written in either case
        yield lambda _: None
        return
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:

        def log(metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                live.log_metric(name, value)
            live.next_step()

        yield log


def training_batches(
    images: ImageList, model: nn.Module, recipe: Recipe, *, seed: int, world: World
) -> TrainingBatches | ResidentBatches:
    """Training batches by a recipe, augmented in loading processes or on the device."""
    augment = recipe.augment.model_dump()
    sampler = EpochSampler(
        len(images.files),
        seed,
        batch=recipe.global_batch,
        world=world,
        device_batch=machine.device_batch(),
        steps=recipe.epoch_steps,
        repeats=augment.pop("repeats"),
    )
    if augment.pop("on_device"):
        del augment["auto_augment"]
        augmentation = Augmentation(**augment)
        return ResidentBatches(images, model, sampler, augmentation=augmentation, workers=machine.workers())
    del augment["padding"]
    return TrainingBatches(images, model, sampler, augment=augment, workers=machine.workers())


def balance(task: MapDistillationTask, images: ImageList, *, batch: int) -> None:
    """Set the statistics of a task's balanced targets from training images, without augmentation.

    Every process computes them from the same images; the first one's are used by all, and by a resumed run.
    """
    whole = Images(images, create_transform(**resolve_model_data_config(bare_model(task))))
    chosen = np.linspace(0, len(whole) - 1, min(len(whole), balancing.IMAGES)).round().astype(int).tolist()
    task.balance(Loader(Subset(whole, chosen), workers=machine.workers(), batch_size=batch))


def fit_and_save(
    model: nn.Module,
    teacher: nn.Module | None,
    folder: Path,
    *,
    world: World,
    run: str,
    train_images: ImageList,
    val_images: ImageList,
    data: Dataset,
    recipe: Recipe,
    objective: Objective,
    seed: int,
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Fit `model` and write `folder`: the timm model, metrics.json, curves.csv, predictions, DVCLive's curves.

    With an EMA, `folder`/ema holds the model with averaged weights. `folder`/epochs holds the models of
    `recipe.keep_epochs` (not averaged), which wait beside the checkpoint until the run ends.

    Args:
        model: the model to train, on the device of `world`; its weights are initialised already.
        teacher: the model to distil from and to compare features with, on the same device; None to fit a teacher.
        folder: the output, written whole or not at all.
        world: the processes that train together; the first of them writes.
        run: the run's name.
        train_images, val_images: the images to train on and to evaluate on.
        data, recipe, objective: sections of params.
        seed: of the order of images and of their augmentation.
        identity: everything that decides the result, as JSON; a run resumes only from a checkpoint with the same.
        record: entries of metrics.json that describe the run, beside what is measured.

    Raises:
        UserError: see `fit`; or a kept epoch's model was deleted before the run ended.
    """
    machine.share_cores(world.device)
    checkpoint_folder = CheckpointFolder(
        machine.checkpoints(),
        run,
        identity,
        fresh=machine.fresh(),
        adopt=machine.adopt(),
        writes=world.primary,
        in_any=lambda statement: world.any([statement])[0],
    )
    if data.unreadable == "skip":
        fresh = machine.fresh() and world.primary
        train_images = SkippingImages.of(train_images, checkpoint_folder.journal, fresh=fresh)
    training = training_batches(train_images, model, recipe, seed=seed, world=world)
    validation = evaluation_batches(
        val_images, model, batch=training.sampler.piece, workers=machine.workers(), world=world
    )
    if objective.feature in WHOLE_BATCH and training.sampler.pieces > 1:
        raise UserError(
            f"objective.definitions: the feature loss {objective.feature} normalises over the whole batch, which "
            f"DEVICE_BATCH splits into {training.sampler.pieces} pieces; unset DEVICE_BATCH, or take another objective"
        )
    task = create_task(
        model,
        teacher,
        **objective.model_dump(),
        label_smoothing=recipe.label_smoothing,
        device=world.device,
        seed=seed,
        **teacher_precision(recipe),
    )
    if isinstance(task, MapDistillationTask) and objective.target == "balanced":
        balance(task, train_images, batch=training.sampler.piece)
    passes = recipe.epochs * training.sampler.steps * training.sampler.pieces  # forward and backward
    image_flops = 3 * flops(model, data.image_size)
    if teacher is not None and (objective.alpha or objective.feature):
        image_flops += flops(teacher, data.image_size)
    worthwhile = compilation.pays(passes, passes * training.sampler.piece * image_flops)
    with checkpoint_folder as checkpoints:
        if world.primary:  # the process that has deleted the old ones
            machine.note_fresh_start()

        def keep(epochs: int) -> None:
            if epochs in recipe.keep_epochs and world.primary:
                with atomic_folder(folders.epoch_folder(checkpoints.folder, epochs)) as out:
                    folders.save(model, out, {**record, "epochs": epochs})

        live = checkpoints.folder / "live"
        logged = live_log(live) if world.primary else nullcontext(lambda _: None)
        with logged as log, sigterm_deferred() as terminated:
            fitted = fit(
                task,
                training,
                validation,
                **recipe.optimization(),
                decay_embeddings=decays_embeddings(recipe, model),
                seed=seed,
                world=world,
                checkpoints=checkpoints,
                checkpoint_s=machine.checkpoint_s(),
                epoch_checkpoint_s=EPOCH_CHECKPOINT_S,
                terminated=terminated,
                compiled=machine.compiled(world.device, worthwhile=worthwhile),
                log=log,
                keep=keep,
            )
        if teacher is None:
            final = None
            measured: Mapping[str, float | None] = evaluate(model, validation, world)
        else:
            final = evaluate_against_teacher(model, teacher, validation, world)
            measured = final.metrics
        check_finite(measured, "after the last epoch")
        if not world.primary:
            return
        unreadable = train_images.unreadable()
        if unreadable:
            names = ", ".join(unreadable)
            print(f"warning: {len(unreadable)} training images cannot be decoded, replaced: {names}", file=sys.stderr)
        with atomic_folder(folder) as out:
            metrics = {
                **record,
                "seed": seed,
                **recipe.settings(),
                **data.evaluation(),
                **measured,
                **best_epoch(fitted.history),
                **{name: value for name, value in fitted.history[-1].items() if name.endswith("_ema")},
                "parameters": parameters(model),
                "flops": flops(model, data.image_size),
                "train_images_per_s": round(fitted.images_per_s, 1),
                "unreadable_images": len(unreadable),
                "device": world.device.type,
                **({"adopted": checkpoints.adopted} if checkpoints.adopted else {}),
            }
            folders.save(model, out, record)
            kept = folders.kept_epochs(checkpoints.folder)
            for epochs in recipe.keep_epochs:
                if epochs not in kept:
                    lost = folders.epoch_folder(checkpoints.folder, epochs)
                    raise UserError(f"{lost}, a model that was kept, is gone; start over with FRESH=1")
                shutil.copytree(kept[epochs], folders.epoch_folder(out, epochs))
            if fitted.ema_model is not None:
                folders.save(fitted.ema_model, out / "ema", record)
            if final is not None:
                write_npy(out / "predictions.npy", final.predictions)
            write_json(out / "metrics.json", metrics)
            columns = dict.fromkeys(name for epoch in fitted.history for name in epoch)  # other code may name others
            write_csv(out / "curves.csv", fitted.history, list(columns))
            if live.is_dir():
                shutil.copytree(live, out / "live")
