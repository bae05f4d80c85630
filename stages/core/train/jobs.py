"""Models to fit, and which of them can be fitted side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from stages.core.base.errors import UserError
from stages.core.config.schema import Objective
from stages.core.train.fingerprints import differing


@dataclass(frozen=True)
class Job:
    """One model to fit, and where to save it.

    Attributes:
        run: the run's name.
        model: the model to train, on the device of the world; its weights are initialised already.
        folder: the output, written whole or not at all.
        objective: a section of params.
        seed: of the order of images and of their augmentation.
        identity: everything that decides the result, as JSON; a run resumes only from a checkpoint with the same.
        command: that makes the model again.
        record: entries of metrics.json that describe the run, beside what is measured.
    """

    run: str
    model: nn.Module
    folder: Path
    objective: Objective
    seed: int
    identity: Mapping[str, Any]
    command: str
    record: Mapping[str, Any]

    @property
    def distils(self) -> bool:
        """Whether the objective uses a teacher."""
        return self.objective.alpha != 0 or self.objective.feature is not None


# Keys of the identity in which jobs that are fitted together may differ.
OWN = ("student", "objective", "copied_blocks")


def check_together(jobs: Sequence[Job]) -> None:
    """Check that models see the same images and the same teacher, so that one pass over the batches serves all.

    Raises:
        UserError: two jobs are of one run, or differ in data, teacher, recipe, seed or normalisation.
    """
    first = jobs[0]
    for position, job in enumerate(jobs[1:], 1):
        if any(job.run == other.run for other in jobs[:position]):
            raise UserError(f"{job.run} is given twice; name each run once")
        different = [key for key in differing(first.identity, job.identity) if key.partition(".")[0] not in OWN]
        images = [resolve_model_data_config(one.model) for one in (first, job)]
        different += [f"its model's {key}" for key in differing(*images)]
        if different:
            raise UserError(
                f"runs that are trained together share data, teacher, recipe and seed, and {job.run} differs from "
                f"{first.run} in {', '.join(different)}; train it by a command of its own"
            )
