"""Make reports/performance.md and its figures from the benchmarks' JSON: python -m stages.tools.performance.

The page is Markdown that git tracks, so that it reads, and its differences show, without running anything.
"""

import argparse
from typing import Any

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_text
from stages.core.evidence.effort import EPOCHS, IMAGES, STUDENT, of_student
from stages.paths import PERFORMANCE
from stages.tools import performance_figures
from stages.tools.performance_tables import (
    BENCHMARKS,
    Measured,
    extraction_table,
    floors_table,
    forms_table,
    growth_table,
    kernels_table,
    limits_table,
    loading_table,
    provenance_table,
    standing_table,
    together_table,
    training_table,
    whole_run_table,
)

PAGE = PERFORMANCE.with_suffix(".md")
GPUS = 4  # of the paper's run
GOAL = 5_400  # images/s of WideLast's step on an H100, to be reached


def measured() -> dict[str, dict[str, Any]]:
    """The record of every benchmark that was run, by name.

    Raises:
        UserError: a file there has a name that no benchmark has.
    """
    records = {path.stem: read_json(path) for path in sorted(PERFORMANCE.glob("*.json"))}
    for name in records:
        if name not in BENCHMARKS:
            raise UserError(f"{PERFORMANCE / name}.json: its name must be one of {', '.join(BENCHMARKS)}; rename it")
    return records


def cores_text(records: Measured) -> str:
    """How many cores load what one GPU trains, in words."""
    loading, training = records.get("loading-cpu"), records.get("training-imagenet-cuda")
    if loading is None or training is None:
        return "How many cores feed a GPU: not measured.\n"
    per_core = loading["results"][0]["images_per_cpu_s"]["ours"]["median"]
    row = of_student(training)
    measured_rate = row["ours"]["images_per_s"]["median"]
    return (
        f"At {per_core:.0f} images per CPU second, {measured_rate / per_core:.0f} such cores feed one "
        f"{training['hardware']['gpus'][0]['name']} at its {measured_rate:,.0f} images/s, and {GOAL / per_core:.0f} at "
        f"{GOAL:,}. Students side by side share what is loaded.\n"
    )


def default_run(records: Measured) -> str:
    """How long `dvc repro` of the default takes, and how much memory, in words."""
    record = records.get("whole_run-cpu", {})
    if "repro_s" not in record:
        return "`dvc repro` of the default: not measured.\n"
    machine = record["hardware"]
    return (
        f"`dvc repro` of the default takes {record['repro_s'] / 60:.1f} min from nothing and "
        f"{record['unchanged_s']:.1f} s with nothing changed, on {machine['cores']} cores ({machine['cpu']}) where "
        f'`python -c "import timm"` takes {record["unit_s"]:.1f} s; its largest process takes '
        f"{record['largest_process_gib']:.1f} GiB.\n"
    )


def wall_time(records: Measured) -> str:
    """How long the paper's run takes, by the measured throughput of one GPU, or that it was not measured."""
    record = records.get("training-imagenet-cuda")
    if record is None:
        return "Expected wall time of the paper's run: not measured (it needs a GPU; see `reports/performance.md`).\n"
    row = of_student(record)
    rate = row["ours"]["images_per_s"]["median"]
    hours = EPOCHS * IMAGES / rate / 3600
    gpu = record["hardware"]["gpus"][0]["name"]
    return (
        f"Expected wall time of the paper's run ({STUDENT}, {record['objective']}, {EPOCHS} epochs), where loading "
        f"keeps up: {hours:.0f} h on one {gpu}, {hours / GPUS:.0f} h on {GPUS} that share the work perfectly, by "
        f"{rate:,.0f} images/s of one (`reports/performance.md`); evaluation comes on top.\n"
    )


def page(records: Measured) -> str:
    """The text of reports/performance.md."""
    return f"""# Performance

Made by `python -m stages.tools.performance` from the JSON files in `reports/performance/`, which the benchmarks write.
Rates are medians over rounds, with the least and the greatest; a ratio is one of the greatest, which other work on the
machine disturbs least. A wide span, and a median far from the greatest, say that there was such work.

## Where it stands

{standing_table(records)}
## Training step

Images that are on the device already; CaiT to DeiT with soft labels and feature distillation (`softkd_mse`). The
textbook step is eager, with unfused attention, `loss.item()` and a wait at each step, in fp16 with a loss scaler on a
GPU and in float32 on a CPU. Utilisation is (3 × student's forward + teacher's forward) × images/s over the rate of a
large matrix product in the same process.

{training_table(records)}
### Forms of the step

What compilation and the batched talking heads of the teacher bring: the same step in other forms, by the best rounds.

{forms_table(records)}
### The costliest kernels

Forward and backward pass of one eager step, teacher included, by the device's time.

{kernels_table(records)}
## Two floors

The arithmetic at the rate of a large matrix product; the bytes that the eager step's operations read and write, one by
one, at the rate of a large copy. Fusion lowers the second; the first holds whatever the code.

{floors_table(records)}
![Operations per second against operations per byte, under the measured peaks](performance/roofline.svg)

## Students side by side

Baseline, Lift and WideLast in turn, with soft labels and feature distillation, on images that are on the device
already: the steps of all of them with one pass of the teacher, and of separate runs. A ratio is of one turn, in which
both follow each other. The limit is that of the operations: Σ(3 × student's forward) + k × teacher's forward over
Σ(3 × student's forward) + teacher's forward.

{together_table(records)}
{limits_table(records)}
## Loading

Batches under the paper's recipe from generated 500×375 JPEGs. Repeated augmentation yields each image three times in a
row: it is decoded once for its repeats. Beside it the same without repeats, and timm's own loader with the same
transform.

{loading_table(records)}
{cores_text(records)}
## Extraction

Last-block features of generated 500×375 JPEGs; the plain loop takes one image at a time and writes a file for each.

{extraction_table(records)}
## A whole default run

{default_run(records)}
A stage's process from start to end, and its optimizer steps alone. Outside are imports, loading, evaluation and saving.

{whole_run_table(records)}
## Growth

The stages on generated 500×375 JPEGs and a CaiT-S24 cut to one block: 196 tokens of 384 channels an image. Memory is a
process's largest resident set, pages of mapped files included, and what a stage keeps of each image: its dims, with
their nulls and differences at most 35 numbers. Time is the stage's own, without imports; its line is the one of least
relative squares. Peaks of equal runs scatter, those of `extract` most: runs of few images are repeated, and the table
shows the greatest peak and the median time.

{growth_table(records)}
![Time and peak memory against images](performance/growth.svg)

## How it was measured

{provenance_table(records)}
{wall_time(records)}"""


def main() -> None:
    """Rewrite the page and its figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    records = measured()
    text = page(records)
    performance_figures.roofline(records, PERFORMANCE)
    performance_figures.growth(records, PERFORMANCE)
    write_text(PAGE, text)


if __name__ == "__main__":
    run(main)
