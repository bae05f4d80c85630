"""Whether students lie between their teacher's dims as the paper's do: python -m stages.tools.geometry.

Reads what `dvc repro svd@teacher pca@teacher` measured, so that widths can be chosen before a student is trained, and
counts the parameters of the students of params.yaml. Dims are those that hold 95 % of an image's energy, the 99th
percentile over images, in the image's own basis and in the one that all share. The paper's figures: 61 and 302 dims,
students 192 wide under a teacher of 384, 5.72 M and 7.31 M parameters.
"""

import argparse
import math
from typing import NamedTuple

import timm
import torch

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json
from stages.core.base.names import BASELINE, TEACHER
from stages.core.config import params
from stages.core.models import students  # noqa: F401  registers the students with timm
from stages.core.models.cost import parameters
from stages.paths import ARTIFACTS, PARAMS
from stages.tools.markdown import table

LEVEL = "95"  # percent of the energy
WIDENED = "widen"


class Condition(NamedTuple):
    """A quantity that has to lie within bounds, both included; `paper` is what it is there."""

    quantity: str
    value: float
    least: float
    most: float
    paper: float

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.least <= self.value <= self.most


def conditions(
    *, per_image_dims: int, shared_dims: int, teacher_width: int, student_width: int, plain: int, widened: int
) -> list[Condition]:
    """What makes a student's place between its teacher's dims comparable with the paper's.

    Args:
        per_image_dims, shared_dims: of the teacher, see the module.
        teacher_width, student_width: channels of the last block.
        plain, widened: parameters of the plain student and of WideLast.
    """
    inside = (per_image_dims + 1, shared_dims - 1)
    return [
        Condition(
            f"student's width (per-image dims {per_image_dims}, shared {shared_dims})", student_width, *inside, 192
        ),
        Condition("teacher's width / student's", teacher_width / student_width, 2, 4, 2),
        Condition("student's width / shared dims", student_width / shared_dims, 0.3, 0.65, 192 / 302),
        Condition("parameters of WideLast / of the plain student", widened / plain, 0, 3, 7_313_896 / 5_717_416),
    ]


def measured(settings: params.Params) -> list[Condition]:
    """The conditions of params and of the teacher's analyses.

    Raises:
        UserError: the teacher was not analysed at 95 %, or params have no student to count.
    """
    folders = [ARTIFACTS / name for name in ("svd", "pca")]
    analyses = [read_json(folder / TEACHER / "metrics.json") for folder in folders]
    per_image, shared = (found["dims_p99"].get(LEVEL) for found in analyses)
    if per_image is None or shared is None:
        places = ", ".join(map(str, folders))
        raise UserError(f"{places}: no dims at {LEVEL} %; put {LEVEL} into the thresholds of analysis.svd and .pca")
    for name in (BASELINE, WIDENED):
        if name not in settings.student.strategies:
            raise UserError(f"student.strategies has no {name} to count; add it")
    counted = {}
    for name in (BASELINE, WIDENED):
        architecture, arguments = settings.student.model(name, settings.teacher)
        with torch.device("meta"):  # without weights
            counted[name] = timm.create_model(architecture, num_classes=settings.dataset.classes, **arguments)
    return conditions(
        per_image_dims=math.ceil(per_image),
        shared_dims=math.floor(shared),
        teacher_width=analyses[0]["channels"],
        student_width=counted[BASELINE].embed_dim,
        plain=parameters(counted[BASELINE]),
        widened=parameters(counted[WIDENED]),
    )


def main() -> None:
    """Print the conditions, and which of them do not hold."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = measured(params.load(PARAMS))
    header = ("quantity", "here", "from", "to", "the paper's", "holds")
    print(table(header, [[*_cells(one), "yes" if one.holds else "no"] for one in found]), end="")
    failing = [one.quantity for one in found if not one.holds]
    print(f"does not hold: {'; '.join(failing)}" if failing else "all hold")


def _cells(one: Condition) -> list[str]:
    return [one.quantity, *(f"{value:.3g}" for value in (one.value, one.least, one.most, one.paper))]


if __name__ == "__main__":
    run(main)
