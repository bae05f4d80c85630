"""The tables of reports/performance.md, from the benchmarks' JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.core.evidence.effort import of_student
from stages.paths import PERFORMANCE
from stages.tools.markdown import table

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
NOT_MEASURED = "Not measured.\n"
ANCHOR = 0.229  # of the matrix rate: the training step of ViT-S in BioNeMo's recipes, as published
Measured = Mapping[str, Mapping[str, Any]]  # the record of every benchmark that was run, by name


def measured_table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, or that nothing of it was measured."""
    return table(header, rows) if rows else NOT_MEASURED


def unmeasured(name: str, header: Sequence[object]) -> list[object]:
    """The row of what was not measured."""
    return [name, *["not measured"] * (len(header) - 1)]


def place(name: str) -> str:
    """Scale and device of a benchmark, from the name of its file."""
    return name.partition("-")[2].replace("-", ", ")


def spread(value: Mapping[str, Any], digits: int = 1) -> str:
    """A median, with the least and the greatest of the rounds."""
    return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(*(value[key] for key in ("median", "min", "max")), d=digits)


def ratio(rate: Mapping[str, float], other: Mapping[str, float]) -> str:
    """How many times as fast, by the best rounds: those that other work on the machine disturbed least."""
    return f"{rate['max'] / other['max']:.2f}"


def share(value: Mapping[str, float]) -> str:
    """A share of the whole, in percent."""
    return f"{value['median']:.0%} ({value['min']:.0%}-{value['max']:.0%})"


def training_table(records: Measured) -> str:
    """Images per second of every student, ours and the textbook's."""
    header = ["scale, device", "student", "batch", "images/s", "textbook images/s", "ratio", "utilisation"]
    header += ["textbook utilisation", "peak memory (GiB), ours / textbook"]
    rows: list[list[object]] = []
    for name in BENCHMARKS:
        if not name.startswith("training-"):
            continue
        if name not in records:
            rows.append(unmeasured(place(name), header))
            continue
        for result in records[name]["results"]:
            ours, textbook = result["ours"], result["textbook"]
            memory = " / ".join(str(side["peak_memory_gib"] or "–") for side in (ours, textbook))
            rows.append(
                [
                    place(name),
                    result["student"],
                    records[name]["batch"],
                    spread(ours["images_per_s"]),
                    spread(textbook["images_per_s"]),
                    ratio(ours["images_per_s"], textbook["images_per_s"]),
                    f"{ours['utilisation']:.1%}",
                    f"{textbook['utilisation']:.1%}",
                    memory,
                ]
            )
    return table(header, rows)


def trained(records: Measured) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Every student whose training step was measured: the benchmark's name, its record, the student's part of it."""
    for name, record in records.items():
        if record["benchmark"] == "training":
            yield from ((name, record, result) for result in record["results"])


def forms_table(records: Measured) -> str:
    """Images per second of our step as it runs, uncompiled, and with timm's talking heads."""
    header = ["scale, device", "student", "form", "images/s", "of ours", "peak memory (GiB)"]
    rows: list[list[object]] = []
    for name, record, result in trained(records):
        if "forms" not in result:
            continue
        ours = f"ours, {'compiled' if record['compiled'] else 'not compiled'}"
        for form, measured in {ours: result["ours"], **result["forms"]}.items():
            rates = measured["images_per_s"]
            share = f"{rates['max'] / result['ours']['images_per_s']['max']:.0%}"
            memory = measured["peak_memory_gib"] or "–"
            rows.append([place(name), result["student"], FORMS.get(form, form), spread(rates), share, memory])
    return measured_table(header, rows)


def kernels_table(records: Measured) -> str:
    """The costliest kernels of an eager step on a GPU."""
    header = ["scale, device", "student", "kernel", "calls", "ms", "of all kernels"]
    rows: list[list[object]] = []
    for name, _, result in trained(records):
        for kernel in result.get("kernels", ()):
            time = [kernel["calls"], f"{kernel['ms']:.2f}", f"{kernel['share']:.1%}"]
            rows.append([place(name), result["student"], f"`{brief(kernel['kernel'])}`", *time])
    return measured_table(header, rows)


def brief(kernel: str) -> str:
    """The name of a kernel without namespaces, shortened: C++ names hold the types of all their parameters."""
    name = kernel.removeprefix("void ").replace("|", "/")
    for namespace in ("at::native::", "(anonymous namespace)::", "cutlass::", "gpu_kernel_impl_nocast<"):
        name = name.replace(namespace, "")
    return name if len(name) <= KERNEL_LETTERS else f"{name[: KERNEL_LETTERS - 1]}…"


def together_table(records: Measured) -> str:
    """How many times as fast students are side by side as one after the other, beside the arithmetic's limit."""
    header = ["scale, device", "students", "together (s)", "one after the other (s)", "ratio", "limit", "of the limit"]
    rows: list[list[object]] = []
    for name in (name for name in BENCHMARKS if name.startswith("together-")):
        for result in records[name]["results"] if name in records else ():
            times = (spread(result[key], 2) for key in ("together_s", "apart_s", "ratio"))
            rows.append(
                [place(name), result["students"], *times, f"{result['limit']:.2f}", f"{result['share_of_limit']:.0%}"]
            )
        if name not in records:
            rows.append(unmeasured(place(name), header))
    return table(header, rows)


def limits_table(records: Measured) -> str:
    """The arithmetic's limits of `together_table` at every scale, from counts of operations."""
    measured = [record for record in records.values() if record["benchmark"] == "together"]
    if not measured:
        return NOT_MEASURED
    limits = measured[-1]["limits"]
    counts = list(next(iter(limits.values())))
    rows = [[scale, *(f"{result[count]:.2f}" for count in counts)] for scale, result in limits.items()]
    return table(["limit by scale", *(f"{count} students" for count in counts)], rows)


def floors_table(records: Measured) -> str:
    """What a step's arithmetic and its bytes would take at the measured peaks, per image."""
    header = ["scale, device", "student", "GFLOP per image", "arithmetic (µs)", "MB per image, eager"]
    header += ["bytes, eager (µs)", "measured, ours (µs)"]
    rows = []
    for name, record, result in trained(records):
        flops, moved = result["flops_per_image"], result["eager_bytes_per_image"]
        rows.append(
            [
                place(name),
                result["student"],
                f"{flops / 1e9:.3g}",
                f"{1e6 * flops / record['matrix_peak_flops_per_s']:.3g}",
                f"{moved / 1e6:.3g}",
                f"{1e6 * moved / record['copy_peak_bytes_per_s']:.3g}",
                f"{1e6 / result['ours']['images_per_s']['median']:.3g}",
            ]
        )
    return measured_table(header, rows)


def loading_table(records: Measured) -> str:
    """Images per second of the training loader, ours and timm's."""
    record = records.get("loading-cpu")
    if record is None:
        return NOT_MEASURED
    header = ["loading processes", *(f"images/s, {WAYS[way]}" for way in WAYS), "of timm's", "of each decoded"]
    header += [f"images per CPU second, {WAYS[way]}" for way in WAYS]
    rows: list[list[object]] = []
    for result in record["results"]:
        rates, per_core = result["images_per_s"], result["images_per_cpu_s"]
        ratios = (ratio(rates["ours"], rates[way]) for way in ("timm", "once"))
        rows.append([result["workers"], *(spread(rates[way]) for way in WAYS), *ratios])
        rows[-1] += [spread(per_core[way]) for way in WAYS]
    parts = table(["of an image's CPU time, were each decoded", "ms"], list(map(list, record["parts_ms"].items())))
    decoders = [
        [name, result["ms"], result["largest_difference"] or "the same pixels"]
        for name, result in record["decoders"].items()
    ]
    header_of_decoders = ["decoder", "ms an image", "largest difference from Pillow's pixels, of 255"]
    return "\n".join([table(header, rows), parts, table(header_of_decoders, decoders), _halved(record)])


def _halved(record: Mapping[str, Any]) -> str:
    return (
        f"A JPEG decoder can make half of the pixels in less time (`draft`). {record['halved']:.0%} of the crops would "
        "be at least as large as the network's images after that; those of smaller crops would be blurred.\n"
    )


def standing_table(records: Measured) -> str:
    """Of each measured row the limit, a rate to compare with, the distance from the limit, and what would come next."""
    rows: list[list[object]] = []
    if record := records.get("training-imagenet-cuda"):
        row = of_student(record)
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
    if record := records.get("together-imagenet-cuda"):
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
    if record := records.get("loading-cpu"):
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
    if record := records.get("extraction-cpu"):
        rates = {way: result["median"] for way, result in record["images_per_s"].items()}
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
    if record := records.get("whole_run-cpu"):
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
    return measured_table(header, rows)


def extraction_table(records: Measured) -> str:
    """Images per second of extraction: ours, of every block, the forward pass alone, and the plain loop's."""
    ways = ("ours", "layerwise", "forward", "plain")
    header = ["device", "model", "images", "images/s", "every block, images/s", "forward pass alone, images/s"]
    header += ["plain loop's images/s", "ratio", "largest relative difference"]
    rows: list[list[object]] = []
    for device in ("cuda", "cpu"):
        record = records.get(f"extraction-{device}")
        if record is None:
            rows.append(unmeasured(device, header))
            continue
        rates = record["images_per_s"]
        shown = (spread(rates[way], 2) for way in ways)
        difference = f"{record['largest_relative_difference']:.1e}"
        rows.append(
            [device, record["model"], record["images"], *shown, ratio(rates["ours"], rates["plain"]), difference]
        )
    return table(header, rows)


def whole_run_table(records: Measured) -> str:
    """How much of a default run its steps are."""
    record = records.get("whole_run-cpu")
    if record is None:
        return NOT_MEASURED
    rows = [
        [stage, *(spread(record[stage][key]) for key in ("whole_s", "steps_s")), share(record[stage]["share_outside"])]
        for stage in ("teach", "train")
    ]
    return table(["stage", "whole process (s)", "its steps (s)", "share outside the steps"], rows)


def growth_table(records: Measured) -> str:
    """Peak memory and time of the analyses, by images, and the line through the times."""
    record = records.get("growth-cpu")
    if record is None:
        return NOT_MEASURED
    columns = [f"{images:,}" for images in record["images"]]
    header = ["stage", *(f"peak memory (MiB), {images} images" for images in columns), "growth of memory"]
    header += [*(f"time (s), {images} images" for images in columns), "s per 1,000 images", "farthest from the line"]
    rows: list[list[object]] = []
    for stage, result in record["results"].items():
        memory, times = ([f"{value:,.1f}" for value in result[key]] for key in ("peak_mib", "seconds"))
        farthest = max(map(abs, result["off_the_line"]))
        line = [f"{result['s_per_1000_images']:.2f}", f"{farthest:.1%}"]
        rows.append([stage, *memory, f"{result['growth']:.1%}", *times, *line])
    return table(header, rows)


def provenance_table(records: Measured) -> str:
    """Command, date, hardware and versions of every benchmark."""
    rows: list[list[object]] = []
    for name, command in BENCHMARKS.items():
        if name not in records:
            rows.append([name, f"`{command} --out {(PERFORMANCE / name).as_posix()}.json`", *["not measured"] * 3])
            continue
        record = records[name]
        machine = record["hardware"]
        gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
        versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {gpus}"
        rows.append([name, f"`{record['command']}`", record["date"], hardware, versions])
    return table(["benchmark", "command", "date", "hardware", "versions"], rows)
