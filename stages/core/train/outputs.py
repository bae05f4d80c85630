"""What a run leaves: the timm model, metrics.json, curves.csv, predictions, DVCLive's curves."""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder, write_csv, write_json
from stages.core.config.schema import Dataset, Recipe
from stages.core.models import folders
from stages.core.models.cards import write_card
from stages.core.models.cost import flops, parameters
from stages.core.train import finished
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.evaluation import FinalEvaluation
from stages.core.train.loop import Fitted
from stages.core.train.state import History

LIVE = "live"  # the folder of DVCLive's curves, beside the checkpoint and in the output
SPEED = "speed.json"  # of the run: beside its checkpoint, since it varies, and outputs do not


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


def keeper(
    model: nn.Module, record: Mapping[str, Any], checkpoints: CheckpointFolder, epochs: Collection[int]
) -> Callable[[int], None]:
    """A function that is called after each epoch, with their number, and keeps the model after each of `epochs`."""

    def keep(done: int) -> None:
        if done in epochs:
            with atomic_folder(folders.epoch_folder(checkpoints.folder, done)) as out:
                folders.save(model, out, {**record, "epochs": done})

    return keep


def write_run(
    model: nn.Module,
    fitted: Fitted,
    final: FinalEvaluation,
    checkpoints: CheckpointFolder,
    *,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    command: str,
    record: Mapping[str, Any],
    unreadable: Sequence[str],
    device: torch.device,
) -> None:
    """Write a run's output beside its checkpoint, whole or not at all.

    With an EMA, its folder `ema` holds the model with averaged weights. The folder `epochs` holds the models of
    `recipe.keep_epochs` (not averaged), which waited beside the checkpoint.

    Args:
        model: the trained model.
        fitted: how its training went.
        final: what was measured at the end.
        checkpoints: of the run.
        data, recipe: sections of params.
        seed: of the run.
        command: that makes the run again.
        record: entries of metrics.json that describe the run, beside what is measured.
        unreadable: the training images that were replaced.
        device: where it was trained.

    Raises:
        UserError: a kept epoch's model was deleted before the run ended.
    """
    finished.forget(checkpoints.folder)
    with atomic_folder(checkpoints.folder / finished.OUTPUT) as out:
        metrics = {
            **record,
            "seed": seed,
            **recipe.settings(),
            **data.evaluation(),
            **final.metrics,
            **best_epoch(fitted.history),
            **{name: value for name, value in fitted.history[-1].items() if name.endswith("_ema")},
            "parameters": parameters(model),
            "flops": flops(model, data.image_size),
            "unreadable_images": len(unreadable),
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
        if final.predictions is not None:
            write_npy(out / "predictions.npy", final.predictions)
        write_json(out / "metrics.json", metrics)
        columns = dict.fromkeys(name for epoch in fitted.history for name in epoch)  # other code may name others
        write_csv(out / "curves.csv", fitted.history, list(columns))
        hub = data.on_hub
        write_card(out, name=checkpoints.run, command=command, metrics=metrics, dataset=data.label, hub_dataset=hub)
        live = checkpoints.folder / LIVE
        if live.is_dir():
            shutil.copytree(live, out / LIVE)
    speed = round(fitted.images_per_s, 1)
    write_json(checkpoints.folder / SPEED, {"train_images_per_s": speed, "device": device.type})
