"""What a training shows: a progress bar on a terminal; in a log file, the device once and a line per epoch."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from tqdm import tqdm

from stages.core.runtime.distributed import World


class Progress:
    """Iterates over the epochs that are left, and shows how far a training is.

    Without a terminal there is a line per run and epoch, or for the last epoch alone where `CI` is set. Only the
    process that writes shows anything. That nobody reads it any more ends no training.

    Args:
        runs: the names of the runs that are trained side by side.
        done: epochs that are finished.
        epochs: all of them.
        world: the processes that train together.
    """

    def __init__(self, runs: Sequence[str], *, done: int, epochs: int, world: World) -> None:
        self.epochs = epochs
        self.left = range(done, epochs)
        terminal = sys.stderr.isatty()
        self.prints = world.is_main and not terminal
        name = world.device.type
        if name == "cuda":
            name = f"{world.device} ({torch.cuda.get_device_name(world.device)})"
        processes = f" in {world.size} processes" if world.size > 1 else ""
        place = f"{', '.join(runs)} on {name}{processes}"
        self.bar = tqdm(
            self.left,
            desc=place if len(runs) == 1 else f"{len(runs)} runs on {name}{processes}",
            initial=done,
            total=epochs,
            unit="epoch",
            disable=not (world.is_main and terminal),
        )
        if self.prints and self.left:
            start = f", from epoch {done + 1}" if done else ""
            print(f"{place}: {epochs} epoch{'s' * (epochs > 1)}{start}", flush=True)

    def __iter__(self) -> Iterator[int]:
        return iter(self.bar)

    def finished(self, run: str, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a run's epoch."""
        loss, top1 = f"{metrics['train_loss']:.3f}", f"{metrics['top1']:.1f} %"
        self.bar.set_postfix(loss=loss, top1=top1)
        epoch = int(metrics["epoch"]) + 1
        if self.prints and (epoch == self.epochs or not os.environ.get("CI")):
            with suppress(OSError):
                print(f"{run}: epoch {epoch}/{self.epochs}, training loss {loss}, top-1 {top1}", flush=True)
