"""Make reports/performance.md and its figures from the benchmarks' JSON: python -m stages.tools.performance.

The page is Markdown that git tracks, so that it reads, and its differences show, without running anything.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_text
from stages.core.evidence.effort import EPOCHS, IMAGES, STUDENT
from stages.paths import PERFORMANCE
from stages.tools import performance_figures
from stages.tools.markdown import table

PAGE = PERFORMANCE.with_suffix(".md")
GPUS = 4  # of the paper's run
# The command that measures each benchmark, by the name of its JSON file.
BENCHMARKS = {
    "training-imagenet-cuda": "python tests/benchmarks/training.py --scale imagenet",
    "training-cifar100-cuda": "python tests/benchmarks/training.py --scale cifar100",
    "training-digits-cpu": "python tests/benchmarks/training.py --scale digits --turns 3",
    "together-imagenet-cuda": "python tests/benchmarks/together.py --scale imagenet",
    "together-digits-cpu": "python tests/benchmarks/together.py --scale digits",
    "whole_run-cpu": "python tests/benchmarks/whole_run.py",
    "loading-cpu": "python tests/benchmarks/loading.py",
    "extraction-cuda": "python tests/benchmarks/extraction.py --images 2000",
    "extraction-cpu": "python tests/benchmarks/extraction.py --model vit_tiny_patch16_224",
    "growth-cpu": "python tests/benchmarks/growth.py",
}
FORMS = {"eager": "not compiled", "timm_heads": "not compiled, timm's talking heads"}
KERNEL_LETTERS = 72  # of a kernel's name on the page
WAYS = {"ours": "with three repeats", "once": "each image decoded", "timm": "timm's loader"}  # of loading
GOAL = 5_400  # images/s of WideLast's step on an H100, to be reached
ANCHOR = 0.229  # of the matrix rate: the training step of ViT-S in BioNeMo's recipes, as published
Measured = Mapping[str, Mapping[str, Any]]


def place(name: str) -> str:
    """Scale and device of a benchmark, from the name of its file."""
    return name.partition("-")[2].replace("-", ", ")


def measured() -> dict[str, dict[str, Any]]:
    """The record of every benchmark that was run, by name.

    Raises:
        UserError: a file there has a name that no benchmark has.
    """
    found = {path.stem: read_json(path) for path in sorted(PERFORMANCE.glob("*.json"))}
    for name in found:
        if name not in BENCHMARKS:
            raise UserError(f"{PERFORMANCE / name}.json: its name must be one of {', '.join(BENCHMARKS)}; rename it")
    return found


def spread(value: Mapping[str, Any], digits: int = 1) -> str:
    """A median, with the least and the greatest of the rounds."""
    return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(*(value[key] for key in ("median", "min", "max")), d=digits)


def ratio(one: Mapping[str, float], other: Mapping[str, float]) -> str:
    """How many times as fast, by the best rounds: those that other work on the machine disturbed least."""
    return f"{one['max'] / other['max']:.2f}"


def training_table(found: Measured) -> str:
    """Images per second of every student, ours and the textbook's."""
    header = [
        "scale, device",
        "student",
        "batch",
        "images/s",
        "textbook images/s",
        "ratio",
        "utilisation",
    ]
    header += ["textbook utilisation", "peak memory (GiB), ours / textbook"]
    rows: list[list[object]] = []
    for name in BENCHMARKS:
        if not name.startswith("training-"):
            continue
        if name not in found:
            rows.append([place(name), *["not measured"] * (len(header) - 1)])
            continue
        for one in found[name]["results"]:
            ours, textbook = one["ours"], one["textbook"]
            memory = " / ".join(str(side["peak_memory_gib"] or "–") for side in (ours, textbook))
            rows.append(
                [
                    place(name),
                    one["student"],
                    found[name]["batch"],
                    spread(ours["images_per_s"]),
                    spread(textbook["images_per_s"]),
                    ratio(ours["images_per_s"], textbook["images_per_s"]),
                    f"{ours['utilisation']:.1%}",
                    f"{textbook['utilisation']:.1%}",
                    memory,
                ]
            )
    return table(header, rows)


def trained(found: Measured) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Every student whose training step was measured: the benchmark's name, its record, the student's part of it."""
    for name, record in found.items():
        if record["benchmark"] == "training":
            yield from ((name, record, one) for one in record["results"])


def forms_table(found: Measured) -> str:
    """Images per second of our step as it runs, uncompiled, and with timm's talking heads."""
    header = ["scale, device", "student", "form", "images/s", "of ours", "peak memory (GiB)"]
    rows: list[list[object]] = []
    for name, record, one in trained(found):
        if "forms" not in one:
            continue
        ours = f"ours, {'compiled' if record['compiled'] else 'not compiled'}"
        for form, measured in {ours: one["ours"], **one["forms"]}.items():
            rates = measured["images_per_s"]
            share = f"{rates['max'] / one['ours']['images_per_s']['max']:.0%}"
            memory = measured["peak_memory_gib"] or "–"
            rows.append([place(name), one["student"], FORMS.get(form, form), spread(rates), share, memory])
    return table(header, rows) if rows else "Not measured.\n"


def kernels_table(found: Measured) -> str:
    """The costliest kernels of an eager step on a GPU."""
    header = ["scale, device", "student", "kernel", "calls", "ms", "of all kernels"]
    rows: list[list[object]] = []
    for name, _, one in trained(found):
        for kernel in one.get("kernels", ()):
            time = [kernel["calls"], f"{kernel['ms']:.2f}", f"{kernel['share']:.1%}"]
            rows.append([place(name), one["student"], f"`{brief(kernel['kernel'])}`", *time])
    return table(header, rows) if rows else "Not measured.\n"


def brief(kernel: str) -> str:
    """The name of a kernel without namespaces, shortened: C++ names hold the types of all their parameters."""
    name = kernel.removeprefix("void ").replace("|", "/")
    for namespace in ("at::native::", "(anonymous namespace)::", "cutlass::", "gpu_kernel_impl_nocast<"):
        name = name.replace(namespace, "")
    return name if len(name) <= KERNEL_LETTERS else f"{name[: KERNEL_LETTERS - 1]}…"


def together_table(found: Measured) -> str:
    """How many times as fast students are side by side as one after the other, beside the arithmetic's limit."""
    header = ["scale, device", "students", "together (s)", "one after the other (s)", "ratio", "limit", "of the limit"]
    rows: list[list[object]] = []
    for name in (name for name in BENCHMARKS if name.startswith("together-")):
        for one in found[name]["results"] if name in found else ():
            times = (spread(one[key], 2) for key in ("together_s", "apart_s", "ratio"))
            rows.append([place(name), one["students"], *times, f"{one['limit']:.2f}", f"{one['share_of_limit']:.0%}"])
        if name not in found:
            rows.append([place(name), *["not measured"] * (len(header) - 1)])
    return table(header, rows)


def limits_table(found: Measured) -> str:
    """The arithmetic's limits of `together_table` at every scale, from counts of operations."""
    records = [record for record in found.values() if record["benchmark"] == "together"]
    if not records:
        return "Not measured.\n"
    limits = records[-1]["limits"]
    counts = list(next(iter(limits.values())))
    rows = [[scale, *(f"{one[count]:.2f}" for count in counts)] for scale, one in limits.items()]
    return table(["limit by scale", *(f"{count} students" for count in counts)], rows)


def floors_table(found: Measured) -> str:
    """What a step's arithmetic and its bytes would take at the measured peaks, per image."""
    header = ["scale, device", "student", "GFLOP per image", "arithmetic (µs)", "MB per image, eager"]
    header += ["bytes, eager (µs)", "measured, ours (µs)"]
    rows = []
    for name, record, one in trained(found):
        flops, moved = one["flops_per_image"], one["eager_bytes_per_image"]
        rows.append(
            [
                place(name),
                one["student"],
                f"{flops / 1e9:.3g}",
                f"{1e6 * flops / record['matrix_peak_flops_per_s']:.3g}",
                f"{moved / 1e6:.3g}",
                f"{1e6 * moved / record['copy_peak_bytes_per_s']:.3g}",
                f"{1e6 / one['ours']['images_per_s']['median']:.3g}",
            ]
        )
    return table(header, rows) if rows else "Not measured.\n"


def loading_table(found: Measured) -> str:
    """Images per second of the training loader, ours and timm's."""
    record = found.get("loading-cpu")
    if record is None:
        return "Not measured.\n"
    header = ["loading processes", *(f"images/s, {WAYS[way]}" for way in WAYS), "of timm's", "of each decoded"]
    header += [f"images per CPU second, {WAYS[way]}" for way in WAYS]
    rows: list[list[object]] = []
    for one in record["results"]:
        rates, per_core = one["images_per_s"], one["images_per_cpu_s"]
        ratios = (ratio(rates["ours"], rates[way]) for way in ("timm", "once"))
        rows.append([one["workers"], *(spread(rates[way]) for way in WAYS), *ratios])
        rows[-1] += [spread(per_core[way]) for way in WAYS]
    parts = table(["of an image's CPU time, were each decoded", "ms"], list(map(list, record["parts_ms"].items())))
    decoders = [
        [name, one["ms"], one["largest_difference"] or "the same pixels"] for name, one in record["decoders"].items()
    ]
    header_of_decoders = ["decoder", "ms an image", "largest difference from Pillow's pixels, of 255"]
    return "\n".join([table(header, rows), parts, table(header_of_decoders, decoders), _halved(record)])


def _halved(record: Mapping[str, Any]) -> str:
    return (
        f"A JPEG decoder can make half of the pixels in less time (`draft`). {record['halved']:.0%} of the crops would "
        "be at least as large as the network's images after that; those of smaller crops would be blurred.\n"
    )


def cores_text(found: Measured) -> str:
    """How many cores load what one GPU trains, in words."""
    loading, training = found.get("loading-cpu"), found.get("training-imagenet-cuda")
    if loading is None or training is None:
        return "How many cores feed a GPU: not measured.\n"
    per_core = loading["results"][0]["images_per_cpu_s"]["ours"]["median"]
    (row,) = (one for one in training["results"] if one["student"] == STUDENT)
    measured_rate = row["ours"]["images_per_s"]["median"]
    return (
        f"At {per_core:.0f} images per CPU second, {measured_rate / per_core:.0f} such cores feed one "
        f"{training['hardware']['gpus'][0]['name']} at its {measured_rate:,.0f} images/s, and {GOAL / per_core:.0f} at "
        f"{GOAL:,}. Students side by side share what is loaded.\n"
    )


def standing_table(found: Measured) -> str:
    """Of each measured row the limit, a rate to compare with, the distance from the limit, and what would come next."""
    rows: list[list[object]] = []
    if record := found.get("training-imagenet-cuda"):
        (row,) = (one for one in record["results"] if one["student"] == STUDENT)
        limit = record["matrix_peak_flops_per_s"] / row["flops_per_image"]
        rate, used = row["ours"]["images_per_s"]["median"], row["ours"]["utilisation"]
        rows.append(
            [
                "training step, imagenet, cuda",
                f"the rate of a large matrix product: {limit:,.0f} images/s",
                f"{ANCHOR:.1%} of that rate: BioNeMo's compiled ViT-S step on one H100, the best public figure known",
                f"{rate:,.0f} images/s, {used:.1%}",
                f"{1 / used:.1f} times, {ANCHOR / used:.1f} to the anchor",
                "the teacher's heads mixed in one kernel (`TALKING_HEADS=fused`); TORCHINDUCTOR_MAX_AUTOTUNE=1",
            ]
        )
    if record := found.get("together-imagenet-cuda"):
        last = record["results"][-1]
        rows.append(
            [
                f"{last['students']} students side by side, imagenet, cuda",
                f"the operations that are shared: {last['limit']:.2f} times",
                "separate runs: 1",
                f"{last['ratio']['median']:.2f} times",
                f"{last['share_of_limit']:.0%} of it",
                "the same, compiled",
            ]
        )
    if record := found.get("loading-cpu"):
        parts = record["parts_ms"]
        once = sum(parts[name] for name in ("read", "decode"))
        limit = 1e3 / (sum(parts.values()) - once + once / record["repeats"])
        rates = {way: record["results"][0]["images_per_cpu_s"][way]["median"] for way in WAYS}
        rows.append(
            [
                "loading, a CPU second",
                f"the parts' own time, a decoding for {record['repeats']} images: {limit:.0f} images",
                f"timm's loader: {rates['timm']:.0f}",
                f"{rates['ours']:.0f}",
                f"{limit / rates['ours']:.2f} times",
                "RandAugment and crops on the device (`augment.on_device` for CIFAR's crops), whose pixels differ",
            ]
        )
    if record := found.get("extraction-cpu"):
        rates = {way: one["median"] for way, one in record["images_per_s"].items()}
        rows.append(
            [
                f"extraction, {record['model']}, cpu",
                f"the forward pass alone: {rates['forward']:.1f} images/s",
                f"one image at a time: {rates['plain']:.1f}",
                f"{rates['ours']:.1f} images/s; of every block {rates['layerwise']:.1f}",
                f"{rates['forward'] / rates['ours']:.2f} times; {rates['forward'] / rates['layerwise']:.2f}",
                "bfloat16, which would change the features",
            ]
        )
    if record := found.get("whole_run-cpu"):
        outside = record["train"]["share_outside"]["median"]
        rows.append(
            [
                "`dvc repro` of the default, cpu",
                f"the optimizer steps: {1 - outside:.0%} of one student's process",
                'a unit: `python -c "import timm"`',
                f"{record['repro_units']:.0f} units",
                f"{outside:.0%} of that process are imports, loading, evaluation, saving",
                "fewer processes: a stage's imports take a unit and more",
            ]
        )
    header = ["what", "limit", "anchor", "here", "from the limit", "what one would do next"]
    return table(header, rows) if rows else "Not measured.\n"


def extraction_table(found: Measured) -> str:
    """Images per second of extraction: ours, of every block, the forward pass alone, and the plain loop's."""
    ways = ("ours", "layerwise", "forward", "plain")
    header = ["device", "model", "images", "images/s", "every block, images/s", "forward pass alone, images/s"]
    header += ["plain loop's images/s", "ratio", "largest relative difference"]
    rows: list[list[object]] = []
    for device in ("cuda", "cpu"):
        record = found.get(f"extraction-{device}")
        if record is None:
            rows.append([device, *["not measured"] * (len(header) - 1)])
            continue
        rates = record["images_per_s"]
        shown = (spread(rates[way], 2) for way in ways)
        difference = f"{record['largest_relative_difference']:.1e}"
        rows.append(
            [device, record["model"], record["images"], *shown, ratio(rates["ours"], rates["plain"]), difference]
        )
    return table(header, rows)


def whole_run_table(found: Measured) -> str:
    """How much of a default run its steps are."""
    record = found.get("whole_run-cpu")
    if record is None:
        return "Not measured.\n"
    rows = [
        [stage, *(spread(record[stage][key]) for key in ("whole_s", "steps_s")), share(record[stage]["share_outside"])]
        for stage in ("teach", "train")
    ]
    return table(["stage", "whole process (s)", "its steps (s)", "share outside the steps"], rows)


def growth_table(found: Measured) -> str:
    """Peak memory and time of the analyses, by images, and the line through the times."""
    record = found.get("growth-cpu")
    if record is None:
        return "Not measured.\n"
    columns = [f"{images:,}" for images in record["images"]]
    header = ["stage", *(f"peak memory (MiB), {images} images" for images in columns), "growth of memory"]
    header += [*(f"time (s), {images} images" for images in columns), "s per 1,000 images", "farthest from the line"]
    rows: list[list[object]] = []
    for stage, one in record["results"].items():
        memory, times = ([f"{value:,.1f}" for value in one[key]] for key in ("peak_mib", "seconds"))
        farthest = max(map(abs, one["off_the_line"]))
        line = [f"{one['s_per_1000_images']:.2f}", f"{farthest:.1%}"]
        rows.append([stage, *memory, f"{one['growth']:.1%}", *times, *line])
    return table(header, rows)


def default_run(found: Measured) -> str:
    """How long `dvc repro` of the default takes, and how much memory, in words."""
    record = found.get("whole_run-cpu", {})
    if "repro_s" not in record:
        return "`dvc repro` of the default: not measured.\n"
    machine = record["hardware"]
    return (
        f"`dvc repro` of the default takes {record['repro_s'] / 60:.1f} min from nothing and "
        f"{record['unchanged_s']:.1f} s with nothing changed, on {machine['cores']} cores ({machine['cpu']}) where "
        f'`python -c "import timm"` takes {record["unit_s"]:.1f} s; its largest process takes '
        f"{record['largest_process_gib']:.1f} GiB.\n"
    )


def share(value: Mapping[str, float]) -> str:
    """A share of the whole, in percent."""
    return f"{value['median']:.0%} ({value['min']:.0%}-{value['max']:.0%})"


def provenance_table(found: Measured) -> str:
    """Command, date, hardware and versions of every benchmark."""
    rows: list[list[object]] = []
    for name, command in BENCHMARKS.items():
        if name not in found:
            rows.append([name, f"`{command} --out {(PERFORMANCE / name).as_posix()}.json`", *["not measured"] * 3])
            continue
        record = found[name]
        machine = record["hardware"]
        gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
        versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {gpus}"
        rows.append([name, f"`{record['command']}`", record["date"], hardware, versions])
    return table(["benchmark", "command", "date", "hardware", "versions"], rows)


def wall_time(found: Measured) -> str:
    """How long the paper's run takes, by the measured throughput of one GPU, or that it was not measured."""
    record = found.get("training-imagenet-cuda")
    if record is None:
        return "Expected wall time of the paper's run: not measured (it needs a GPU; see `reports/performance.md`).\n"
    (row,) = (one for one in record["results"] if one["student"] == STUDENT)
    rate = row["ours"]["images_per_s"]["median"]
    hours = EPOCHS * IMAGES / rate / 3600
    gpu = record["hardware"]["gpus"][0]["name"]
    return (
        f"Expected wall time of the paper's run ({STUDENT}, {record['objective']}, {EPOCHS} epochs), where loading "
        f"keeps up: {hours:.0f} h on one {gpu}, {hours / GPUS:.0f} h on {GPUS} that share the work perfectly, by "
        f"{rate:,.0f} images/s of one (`reports/performance.md`); evaluation comes on top.\n"
    )


def page(found: Measured) -> str:
    """The text of reports/performance.md."""
    return f"""# Performance

Made by `python -m stages.tools.performance` from the JSON files in `reports/performance/`, which the benchmarks write.
Rates are medians over rounds, with the least and the greatest; a ratio is one of the greatest, which other work on the
machine disturbs least. A wide span, and a median far from the greatest, say that there was such work.

## Where it stands

{standing_table(found)}
## Training step

Images that are on the device already; CaiT to DeiT with soft labels and feature distillation (`softkd_mse`). The
textbook step is eager, with unfused attention, `loss.item()` and a wait at each step, in fp16 with a loss scaler on a
GPU and in float32 on a CPU. Utilisation is (3 × student's forward + teacher's forward) × images/s over the rate of a
large matrix product in the same process.

{training_table(found)}
### Forms of the step

What compilation and the batched talking heads of the teacher bring: the same step in other forms, by the best rounds.

{forms_table(found)}
### The costliest kernels

Forward and backward pass of one eager step, teacher included, by the device's time.

{kernels_table(found)}
## Two floors

The arithmetic at the rate of a large matrix product; the bytes that the eager step's operations read and write, one by
one, at the rate of a large copy. Fusion lowers the second; the first holds whatever the code.

{floors_table(found)}
![Operations per second against operations per byte, under the measured peaks](performance/roofline.svg)

## Students side by side

Baseline, Lift and WideLast in turn, with soft labels and feature distillation, on images that are on the device
already: the steps of all of them with one pass of the teacher, and of separate runs. A ratio is of one turn, in which
both follow each other. The limit is that of the operations: Σ(3 × student's forward) + k × teacher's forward over
Σ(3 × student's forward) + teacher's forward.

{together_table(found)}
{limits_table(found)}
## Loading

Batches under the paper's recipe from generated 500×375 JPEGs. Repeated augmentation yields each image three times in a
row: it is decoded once for its repeats. Beside it the same without repeats, and timm's own loader with the same
transform.

{loading_table(found)}
{cores_text(found)}
## Extraction

Last-block features of generated 500×375 JPEGs; the plain loop takes one image at a time and writes a file for each.

{extraction_table(found)}
## A whole default run

{default_run(found)}
A stage's process from start to end, and its optimizer steps alone. Outside are imports, loading, evaluation and saving.

{whole_run_table(found)}
## Growth

The stages on generated 500×375 JPEGs and a CaiT-S24 cut to one block: 196 tokens of 384 channels an image. Memory is a
process's largest resident set, pages of mapped files included, and what a stage keeps of each image: its dims, with
their nulls and differences at most 35 numbers. Time is the stage's own, without imports; its line is the one of least
relative squares. Peaks of equal runs scatter, those of `extract` most: runs of few images are repeated, and the table
shows the greatest peak and the median time.

{growth_table(found)}
![Time and peak memory against images](performance/growth.svg)

## How it was measured

{provenance_table(found)}
{wall_time(found)}"""


def main() -> None:
    """Rewrite the page and its figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = measured()
    text = page(found)
    performance_figures.roofline(found, PERFORMANCE)
    performance_figures.growth(found, PERFORMANCE)
    write_text(PAGE, text)


if __name__ == "__main__":
    run(main)
