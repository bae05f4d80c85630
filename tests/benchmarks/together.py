"""Students trained side by side against one after the other: python tests/benchmarks/together.py --scale digits.

For k = 1, 3 and 6 students (baseline, lift and widen in turn; soft labels and feature distillation), the steps of k
students that share one pass of the teacher, and of k separate runs, each by `stages.core.train.loop.fit_together` on
images that are on the device already. Both follow each other in every turn, so that a busy machine slows both, and a
ratio is of one turn.

The arithmetic's limit is the ratio of the operations, Σ(3 × student's forward) + k × teacher's forward over Σ(3 × …) +
teacher's forward; it is counted at every scale, whatever is measured.
"""

import argparse
from pathlib import Path
from typing import Any

import measuring
import timm
import torch
from measuring import spread
from torch import Tensor, nn
from training import SCALES, SMOOTHING, STUDENTS, NoCheckpoints, Resident, make_recipe

from stages.core.config.schema import Objective
from stages.core.distillation.task import create_task
from stages.core.models.cost import flops
from stages.core.models.talking_heads import batch_talking_heads
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train.loop import fit_together
from stages.core.train.optimization import PRECISIONS
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training

COUNTS = (1, 3, 6)
OBJECTIVE = Objective(alpha=0.9, tau=1.0, feature="mse", feature_weight=0.2)


def names(count: int) -> list[str]:
    """The students of a group of so many."""
    return [list(STUDENTS)[position % len(STUDENTS)] for position in range(count)]


def make_teacher(scale: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    teacher = timm.create_model("cait_s24_224", num_classes=scale["classes"], **scale["teacher"]).eval()
    batch_talking_heads(teacher)  # as `folders.load` does
    return teacher


def make_student(name: str, scale: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    architecture, option = STUDENTS[name]
    own = {} if option is None else {option: scale["width"]}
    return timm.create_model(architecture, num_classes=scale["classes"], **scale["base"], **own)


def limits(scale: dict[str, Any]) -> dict[str, float]:
    """The arithmetic's limit at a scale, by the number of students."""
    size = scale["base"]["img_size"]
    teaching = flops(make_teacher(scale), size)
    steps = {name: 3 * flops(make_student(name, scale), size) for name in STUDENTS}
    found = {}
    for count in COUNTS:
        own = sum(steps[name] for name in names(count))
        found[str(count)] = round((own + count * teaching) / (own + teaching), 3)
    return found


def seconds(
    chosen: list[str], teacher: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> float:
    """The seconds of the steps of students side by side; an epoch before them warms up."""
    device, precision = images.device, PRECISIONS[options.precision]
    frozen = FrozenTeacher(teacher, device=device, dtype=precision)
    batches = Resident(images, labels, options.steps)
    recipe = make_recipe(epochs=2, precision=options.precision, ema_decay=SCALES[options.scale]["ema_decay"])
    trainings = []
    for name in chosen:
        student = make_student(name, SCALES[options.scale]).to(device)
        task = create_task(student, frozen, OBJECTIVE, label_smoothing=SMOOTHING, device=device)
        checkpoints: Any = NoCheckpoints()
        options_of_all = {"seed": 0, "world": World(0, 1, device), "compiled": machine.compiled(device)}
        trainings.append(Training(task, checkpoints, recipe, batches.sampler, **options_of_all))
    fit_together(trainings, batches, [(images[:2], labels[:2])])  # type: ignore[arg-type]
    torch.compiler.reset()
    return batches.seconds[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=10, help="of one measurement")
    parser.add_argument("--turns", type=int, default=5, help="measurements")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    scale: dict[str, Any] = SCALES[options.scale]
    options.precision = "bfloat16" if options.device.type == "cuda" else "float32"
    batch = options.batch or scale["batch"]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *[scale["base"]["img_size"]] * 2, generator=generator).to(options.device)
    labels = torch.randint(scale["classes"], (batch,), generator=generator).to(options.device)
    teacher = make_teacher(scale).to(options.device)

    counted = {name: limits(one) for name, one in SCALES.items()}
    taken: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
    for _ in range(options.turns):
        for count in COUNTS:
            together = seconds(names(count), teacher, images, labels, options)
            apart = sum(seconds([name], teacher, images, labels, options) for name in names(count))
            taken[count].append((together, apart))
    results = []
    for count, pairs in taken.items():
        ratios = spread([apart / together for together, apart in pairs], 3)
        limit = counted[options.scale][str(count)]
        results.append(
            {
                "students": count,
                "together_s": spread([together for together, _ in pairs], 3),
                "apart_s": spread([apart for _, apart in pairs], 3),
                "ratio": ratios,
                "limit": limit,
                "share_of_limit": round(ratios["median"] / limit, 3),
            }
        )
    measuring.save(
        options.out,
        "together",
        {
            "scale": options.scale,
            "device": options.device.type,
            "batch": batch,
            "steps": options.steps,
            "precision": options.precision,
            "compiled": machine.compiled(options.device),
            "limits": counted,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
