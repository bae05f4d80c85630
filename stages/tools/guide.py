"""How wide a student must be for a teacher, and what that costs: python -m stages.tools.guide --backbone NAME.

A student whose last-block map is d wide, read by one fixed linear projector, cannot come nearer to the teacher's
features than a relative error of 1 − E(d), the energy beyond the first d directions of the dataset PCA. The guide
names the smallest width for each share of energy, and what Lift and WideLast to that width cost. WideLast's map can
fill its width; Lift's keeps the rank of the narrow map that its projector reads (and one more, by its LayerNorm's
shift), and with it that map's floor. The guide bounds what a student can reach; it does not say that training
reaches it.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from stages.core.analysis.energy import dims
from stages.core.base.errors import UserError, run
from stages.core.models.cost import flops, parameters
from stages.core.models.students import lift, widen
from stages.paths import RESULTS

LEVELS = (80, 90, 95, 99)
STUDENT = "deit_tiny_patch16_224"
HEADER = ("energy %", "width", "per image", "Lift", "parameters", "GFLOPs", "WideLast", "parameters", "GFLOPs")


@dataclass(frozen=True)
class Cost:
    """A student's width, trainable parameters, and FLOPs of one image (a multiply-add is two)."""

    width: int
    parameters: int
    flops: int


def read_floors(file: Path, backbone: str) -> np.ndarray:
    """1 − E(d) of one fixed projector and of one for each image, [2, D].

    Args:
        file: floor.csv of the results.
        backbone: a backbone in it.

    Raises:
        UserError: the file is missing or is no such table, or has no such backbone.
    """
    floors: dict[str, list[tuple[float, float]]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as table:
            for row in csv.DictReader(table):
                floors.setdefault(row["backbone"], []).append((float(row["fixed"]), float(row["per_image"])))
    except FileNotFoundError:
        raise UserError(f"{file} is missing; run `dvc repro summarize` to make it") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file} is no table of floors ({error!r}); run `dvc repro summarize` to make it") from None
    if backbone not in floors:
        raise UserError(
            f"--backbone {backbone}: none of {file} ({', '.join(floors) or 'which is empty'}); name it in "
            "analysis.backbones and run `dvc repro summarize`"
        )
    return np.array(floors[backbone]).T


def student_of(name: str) -> VisionTransformer:
    """A student without weights, which takes no memory.

    Args:
        name: of a timm VisionTransformer, or a folder that holds one.

    Raises:
        UserError: timm cannot make it, or it is of a class that Lift and WideLast do not take.
    """
    local = Path(name).is_dir()
    try:
        with torch.device("meta"):
            model = timm.create_model(f"local-dir:{name}" if local else name, pretrained=False)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--student {name}: timm cannot make it ({' '.join(str(error).split())})") from None
    if type(model) is not VisionTransformer:
        raise UserError(
            f"--student {name} is a {type(model).__name__}; Lift and WideLast take a plain VisionTransformer, "
            f"as {STUDENT}"
        )
    return model


def cost(model: VisionTransformer) -> Cost:
    """Count a model at its own input size."""
    image_size = model.pretrained_cfg["input_size"][-1]
    return Cost(model.embed_dim, parameters(model), flops(model, image_size))


def lifted(student: str, width: int) -> Cost:
    """Of the student with a projector to `width` channels."""
    model = student_of(student)
    with torch.device("meta"):
        return cost(lift(model, width))


def widened(student: str, width: int) -> Cost:
    """Of the student with its last block at least `width` wide: at the next whole number of attention heads."""
    model = student_of(student)
    head = model.blocks[-1].attn.head_dim
    with torch.device("meta"):
        return cost(widen(model, -(-width // head) * head))


def guide(backbone: str, student: str, levels: Sequence[int], results: Path) -> str:
    """The table as text.

    Raises:
        UserError: the backbone or the student is unknown, or the results are missing.
    """
    floors = read_floors(results / "floor.csv", backbone)
    model = student_of(student)
    base, head = cost(model), model.blocks[-1].attn.head_dim
    rows: list[tuple[str, ...]] = [HEADER]
    for level, fixed, per_image in zip(levels, *dims(1 - floors, levels), strict=True):
        parts = [f"{level}", f"{fixed}", f"{per_image}"]
        for of in (lifted, widened):
            # A map no wider than the student's own needs neither remedy.
            parts += ["–"] * 3 if fixed <= base.width else _said(of(student, fixed))
        rows.append(tuple(parts))
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)) for row in rows]
    if all(row[3] == "–" for row in rows[1:]):
        table.append("No remedy is needed: the student is wide enough for every share of the energy.")
    _, parameters, flops = _said(base)
    fixed_floors = floors[0]
    rank = min(base.width + 1, len(fixed_floors))
    return "\n".join(
        [
            f"{backbone}: width of a student that one fixed linear projector reads, for a share of the energy",
            *table,
            "per image: were the projector another one for each image. –: wide enough as it is.",
            f"{student} is {base.width} wide: {parameters} parameters, {flops} GFLOPs; relative error of the best "
            f"linear projector at least {fixed_floors[min(base.width, len(fixed_floors)) - 1]:.3g}.",
            f"Lift's map has at most rank {rank}, to whatever width: at least {fixed_floors[rank - 1]:.3g}.",
            f"WideLast is rounded up to whole heads of {head} channels.",
        ]
    )


def _said(of: Cost) -> list[str]:
    return [f"{of.width}", f"{of.parameters:,}", f"{of.flops / 1e9:.4g}"]


def main() -> None:
    """Print the guide for the backbone that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, metavar="NAME", help="one of the backbones in the results")
    parser.add_argument(
        "--student",
        default=STUDENT,
        metavar="NAME",
        help="a timm VisionTransformer, or a folder of one such as artifacts/train/baseline-none-0 (%(default)s)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(%(default)s)")
    given = parser.parse_args()
    print(guide(given.backbone, given.student, LEVELS, given.results))


if __name__ == "__main__":
    run(main)
