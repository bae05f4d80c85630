"""How wide a student must be for a teacher, and what that costs: python -m stages.tools.required_width --backbone NAME.

If one fixed linear projector reads a student's last-block map of width d, its relative error against the teacher's
features is at least 1 − E(d), the share of energy beyond the first d directions of the dataset PCA. For several
shares of energy, this command prints the smallest width that allows them, and the cost of Lift and WideLast at that
width. WideLast's map can have full rank; Lift's has at most the rank of the narrow map that its projector reads (plus
one, by its LayerNorm's shift), and therefore that map's error. These are lower bounds; training need not reach them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from stages.core.analysis.dims import dims
from stages.core.base.errors import UserError, run
from stages.core.evidence.results import read_table
from stages.core.models.cost import flops, parameters
from stages.core.models.lift import lift
from stages.core.models.widelast import widen
from stages.paths import RESULTS

LEVELS = (80, 90, 95, 99)
STUDENT = "deit_tiny_patch16_224"
HEADER = ("energy %", "width", "per image", "Lift", "parameters", "GFLOPs", "WideLast", "parameters", "GFLOPs")
NEEDED = 3  # columns of HEADER before those of the remedies
NO_REMEDY = "–"


@dataclass(frozen=True)
class Cost:
    """A student's width, trainable parameters, and FLOPs of one image (a multiply-add is two)."""

    width: int
    parameters: int
    flops: int


def read_floors(file: Path, backbone: str) -> np.ndarray:
    """1 − E(d) for d = 1 … D, of one fixed projector and of one projector per image, [2, D].

    Args:
        file: floor.csv of the results.
        backbone: a name in its column `backbone`.

    Raises:
        UserError: the file is missing, is not such a table, or does not have the backbone.
    """
    table = read_table(file)
    try:
        floors = table.set_index("backbone")[["shared", "per_image"]].astype(float)
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} is not a table of floors ({error!r}); run `dvc repro summarize` to make it") from None
    if backbone not in floors.index:
        raise UserError(
            f"--backbone {backbone}: {file} has {', '.join(dict.fromkeys(floors.index)) or 'no backbone'}; add it to "
            "analysis.backbones and run `dvc repro summarize`"
        )
    return floors.loc[[backbone]].to_numpy().T


def student_of(name: str) -> VisionTransformer:
    """A student without weights, on torch's meta device.

    Args:
        name: a timm VisionTransformer's name, or a folder that holds one.

    Raises:
        UserError: timm cannot create it, or Lift and WideLast do not support its class.
    """
    local = Path(name).is_dir()
    try:
        with torch.device("meta"):
            model = timm.create_model(f"local-dir:{name}" if local else name, pretrained=False)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--student {name}: timm cannot create it ({' '.join(str(error).split())})") from None
    if type(model) is not VisionTransformer:
        raise UserError(
            f"--student {name} is a {type(model).__name__}; Lift and WideLast need a plain VisionTransformer, "
            f"such as {STUDENT}"
        )
    return model


def cost(model: VisionTransformer) -> Cost:
    """Parameters and FLOPs of a model at its own input size."""
    image_size = model.pretrained_cfg["input_size"][-1]
    return Cost(model.embed_dim, parameters(model), flops(model, image_size))


def lifted(student: str, width: int) -> Cost:
    """The cost of the student with Lift's projector to `width` channels."""
    model = student_of(student)
    with torch.device("meta"):
        return cost(lift(model, width))


def widened(student: str, width: int) -> Cost:
    """The cost of the student with a WideLast block of at least `width` channels, a whole number of attention heads."""
    model = student_of(student)
    head = model.blocks[-1].attn.head_dim
    with torch.device("meta"):
        return cost(widen(model, -(-width // head) * head))


def required_width(backbone: str, student: str, levels: Sequence[int], results: Path) -> str:
    """The smallest widths as text.

    Args:
        backbone: the teacher, one of floor.csv.
        student: a timm name, or a folder.
        levels: shares of energy in percent.
        results: the folder with floor.csv.

    Raises:
        UserError: the backbone or the student is unknown, or the results are missing.
    """
    floors = read_floors(results / "floor.csv", backbone)
    model = student_of(student)
    base, head = cost(model), model.blocks[-1].attn.head_dim
    rows: list[tuple[str, ...]] = [HEADER]
    for level, fixed, per_image in zip(levels, *dims(1 - floors, levels), strict=True):
        parts = [f"{level}", f"{fixed}", f"{per_image}"]
        for remedy in (lifted, widened):
            # A map no wider than the student's own needs neither remedy.
            parts += [NO_REMEDY] * 3 if fixed <= base.width else _cells(remedy(student, fixed))
        rows.append(tuple(parts))
    _, parameters, flops = _cells(base)
    fixed_floors = floors[0]
    own_floor = fixed_floors[min(base.width, len(fixed_floors)) - 1]
    heading = f"{backbone}: width that a student needs for a share of the energy, read by one fixed linear projector"
    student_line = (
        f"{student} is {base.width} wide: {parameters} parameters, {flops} GFLOPs; relative error of the best linear "
        f"projector at least {own_floor:.3g}."
    )
    per_image_line = "per image: with a projector of its own for each image."
    if all(NO_REMEDY in row for row in rows[1:]):
        needed = _table([row[:NEEDED] for row in rows])
        verdict = "No remedy is needed: the student is wide enough for every share of the energy."
        return "\n".join([heading, *needed, per_image_line, student_line, verdict])
    rank = min(base.width + 1, len(fixed_floors))
    return "\n".join(
        [
            heading,
            *_table(rows),
            f"{per_image_line} {NO_REMEDY}: the student is wide enough.",
            student_line,
            f"Lift's map has at most rank {rank} at any width: relative error at least {fixed_floors[rank - 1]:.3g}.",
            f"WideLast is rounded up to whole heads of {head} channels.",
        ]
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)) for row in rows]


def _cells(cost: Cost) -> list[str]:
    return [f"{cost.width}", f"{cost.parameters:,}", f"{cost.flops / 1e9:.4g}"]


def main() -> None:
    """Print the smallest widths for the backbone that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, metavar="NAME", help="one of the backbones in the results")
    parser.add_argument(
        "--student",
        default=STUDENT,
        metavar="NAME",
        help="a timm VisionTransformer, or a folder of one such as artifacts/train/0/baseline-none-0 (%(default)s)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(%(default)s)")
    arguments = parser.parse_args()
    print(required_width(arguments.backbone, arguments.student, LEVELS, arguments.results))


if __name__ == "__main__":
    run(main)
