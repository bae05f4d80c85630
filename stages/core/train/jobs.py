"""Models to fit, and which of them can be fitted side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.core.base.errors import UserError
from stages.core.config.schema import Objective
from stages.core.train.fingerprints import NOT_TRAINING, TRAINS, code_of, differing, digest


@dataclass(frozen=True)
class Job:
    """One model to fit, and where to save it.

    Attributes:
        run: the run's name.
        create: makes the model, on the device of the world and with its initial weights, and the entries of
            metrics.json that describe the run, beside what is measured. Called only where there is something to train.
        folder: the output, written whole or not at all.
        objective: a section of params.
        seed: of the order of images and of their augmentation.
        identity: everything but code that decides the result, as JSON; a run resumes only from a checkpoint with the
            same.
        modules: of the project, beside those that train every model, the ones that decide this one's weights.
        stage: the module of the stage that writes the output.
        command: that makes the model again.
    """

    run: str
    create: Callable[[], tuple[nn.Module, Mapping[str, Any]]]
    folder: Path
    objective: Objective
    seed: int
    identity: Mapping[str, Any]
    modules: Sequence[str]
    stage: str
    command: str

    def trained_by(self) -> dict[str, str]:
        """SHA-256 of each source file that decides the model's weights."""
        return code_of([*TRAINS, *self.modules], without=NOT_TRAINING)

    def written_by(self) -> str:
        """A digest of all code that decides the run's output: the model's, its metrics' and its card's."""
        return digest(code_of([*TRAINS, *self.modules, self.stage]))


# Keys of the identity in which jobs that are fitted together may differ.
OWN = ("student", "objective", "copies_teacher")


def check_together(jobs: Sequence[Job]) -> None:
    """Check that models see the same images and the same teacher, so that one pass over the batches serves all.

    Raises:
        UserError: two jobs are of one run, or differ in data, teacher, recipe or seed.
    """
    first = jobs[0]
    for position, job in enumerate(jobs[1:], 1):
        if any(job.run == other.run for other in jobs[:position]):
            raise UserError(f"{job.run} is given twice; name each run once")
        different = [key for key in differing(first.identity, job.identity) if key.partition(".")[0] not in OWN]
        _refuse(first, job, different)


def check_images(jobs: Sequence[Job], models: Sequence[nn.Module]) -> None:
    """Check that models take images of one size, cropped and normalised alike.

    Raises:
        UserError: two of them do not.
    """
    first = resolve_model_data_config(models[0])
    for job, model in zip(jobs, models, strict=True):
        different = differing(first, resolve_model_data_config(model))
        _refuse(jobs[0], job, [f"its model's {key}" for key in different])


def check_batch_norm(job: Job, model: nn.Module, *, micro_batches: int, processes: int) -> None:
    """Check that a model's BatchNorm sees whole batches, so that the machine changes no result.

    Args:
        job: of the model.
        model: to train.
        micro_batches: in which a process takes its part of a batch.
        processes: that share a batch.

    Raises:
        UserError: it would normalise over a part of the batch.
    """
    if micro_batches * processes > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(
            f"{job.run}: its BatchNorm normalises over what a process takes at a time, so that the result would depend "
            "on the machine; set PROCESSES=1 and unset DEVICE_BATCH, or choose a model with another norm"
        )


def _refuse(first: Job, job: Job, different: Sequence[str]) -> None:
    if different:
        raise UserError(
            f"runs that are trained together share data, teacher, recipe and seed, and {job.run} differs from "
            f"{first.run} in {', '.join(different)}; train it by a command of its own"
        )
