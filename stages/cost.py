"""Count parameters and FLOPs of the paper's students and of the controls of size: 224×224 images, 1000 classes.

It needs neither data nor weights, so the published costs can be audited anywhere.
"""

from typing import Any

import timm

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.models.cost import flops, parameters
from stages.paths import COST

STUDENTS = {
    "baseline": "deit_tiny_patch16_224",
    "lift": "deit_tiny_lift_patch16_224",
    "widen": "deit_tiny_widelast_patch16_224",
    "uniform": "deit_tiny_uniform_patch16_224",
    "half": "cait_s24_224",
    "copy": "cait_s24_224",
}
ARGUMENTS = {name: {"depth": 12} for name in ("half", "copy")}  # of the teacher's 24 blocks
IMAGE_SIZE = 224


def main() -> None:
    """Write the counts of each student."""
    messages.begin("cost", "counts parameters and operations of the paper's students")
    counts: dict[str, dict[str, Any]] = {}
    for strategy, architecture in STUDENTS.items():
        model = timm.create_model(architecture, **ARGUMENTS.get(strategy, {}))
        counts[strategy] = {
            "architecture": architecture,
            "parameters": parameters(model),
            "flops": flops(model, IMAGE_SIZE),
        }
    with atomic_folder(COST) as folder:
        write_json(folder / "metrics.json", counts)
    least, most = (choose(count["parameters"] for count in counts.values()) / 1e6 for choose in (min, max))
    messages.end("cost", f"{least:.2f} to {most:.2f} million parameters in {len(counts)} students", COST)


if __name__ == "__main__":
    run(main)
