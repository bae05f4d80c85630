"""What a run leaves: the timm model, metrics.json, curves.csv, predictions, DVCLive's curves."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stages.core.base.arrays import write_npy
from stages.core.base.errors import UserError
from stages.core.base.files import atomic_folder, write_csv, write_json
from stages.core.config.schema import Dataset
from stages.core.models import folders
from stages.core.models.cards import write_card
from stages.core.models.cost import flops, parameters
from stages.core.train import finished
from stages.core.train.evaluation import FinalEvaluation
from stages.core.train.state import History
from stages.core.train.training import Training

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


def write_run(
    training: Training, final: FinalEvaluation, *, data: Dataset, command: str, unreadable: Sequence[str]
) -> None:
    """Write a run's output beside its checkpoint, whole or not at all.

    With an EMA, its folder `ema` holds the model with averaged weights. The folder `epochs` holds the models of
    `recipe.keep_epochs` (not averaged), which waited beside the checkpoint.

    Args:
        training: the trained model.
        final: what was measured at the end.
        data: a section of params.
        command: that makes the run again.
        unreadable: the training images that were replaced.

    Raises:
        UserError: a kept epoch's model was deleted before the run ended.
    """
    model, record, history = training.model, training.record, training.state.history
    checkpoints, recipe = training.checkpoints, training.recipe
    finished.forget(checkpoints.folder)
    with atomic_folder(checkpoints.folder / finished.OUTPUT) as out:
        metrics = {
            **record,
            "seed": training.seed,
            **recipe.settings(),
            **data.evaluation(),
            **final.metrics,
            **best_epoch(history),
            **{name: value for name, value in history[-1].items() if name.endswith("_ema")},
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
        if training.ema_model is not None:
            folders.save(training.ema_model, out / "ema", record)
        if final.predictions is not None:
            write_npy(out / "predictions.npy", final.predictions)
        write_json(out / "metrics.json", metrics)
        columns = dict.fromkeys(name for epoch in history for name in epoch)  # other code may name others
        write_csv(out / "curves.csv", history, list(columns))
        hub = data.on_hub
        write_card(out, name=training.run, command=command, metrics=metrics, dataset=data.label, hub_dataset=hub)
        live = checkpoints.folder / LIVE
        if live.is_dir():
            shutil.copytree(live, out / LIVE)
    speed = {"train_images_per_s": round(training.state.images_per_s, 1), "device": training.world.device.type}
    write_json(checkpoints.folder / SPEED, speed)
