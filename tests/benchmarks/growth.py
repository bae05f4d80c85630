"""Memory and time of extract, svd, pca and sep as images grow: python tests/benchmarks/growth.py --out FILE.

Runs the stages as DVC does, each in a process of its own, in an empty folder: a CaiT-S24 cut to one block, whose
features are [196, 384] an image as the whole one's, on generated JPEGs. Memory is the peak of the process's resident
set (VmHWM), pages of mapped files included. Time is that of the stage's `main`, without imports. A run of few images is
repeated: the maximum peak and the median time count. The exit status is 1 if a peak is more than a tenth above the
least one, or a time deviates from a straight line by more than that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import yaml
from extraction import jpegs

from stages.core.models import folders, pretrained
from stages.paths import TEACH

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("extract", "svd", "pca", "sep")
CLASSES, FILES = 2, 400  # the files are listed again and again under other names
DATASET = {"reader": "folder", "watch": ["images"], "label": "generated", "classes": CLASSES, "image_size": 224}
MODEL = ("cait_s24_224", {"depth": 1, "num_classes": CLASSES})
MEMORY = 0.1  # of the least peak: how far above it the others may be
TIME = 0.1  # of the line's time: how far off it a measurement may be
POLL_S = 0.2
REPEATED = 4_000  # images: a run of fewer is repeated, as the peaks of equal runs of torch differ by a tenth
STAGE = """
import importlib, json, sys, time
from pathlib import Path
main = importlib.import_module(f"stages.{sys.argv[1]}").main
sys.argv[1:] = sys.argv[2:]
started = time.perf_counter()
main()
taken = time.perf_counter() - started
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"seconds": round(taken, 2), "peak_mib": round(int(status["VmHWM"].split()[0]) / 1024, 1)}))
"""


def children_peak(process: int) -> float:
    """The largest peak of a process's children so far, in MiB; 0 if it has none."""
    peak = 0.0
    try:
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            for line in Path(f"/proc/{child}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) / 1024)
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        pass
    return peak


def measured(folder: Path, stage: str, *arguments: str) -> dict[str, float]:
    """Run one stage: seconds, peak MiB of its process, and of the largest of its loading processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DATA_ROOT": str(folder / "images")}
    environment.pop("DVC_ROOT", None)
    command = [sys.executable, "-c", STAGE, stage, *arguments]
    loaders = 0.0
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            loaders = max(loaders, children_peak(process.pid))
            try:
                process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdout is not None
        printed = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{stage} failed with {process.returncode}")
    return json.loads(printed[-1]) | {"loaders_peak_mib": round(loaders, 1)}


def combined(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Maximum peaks and median time over some rounds."""
    columns = {name: [one[name] for one in rounds] for name in rounds[0]}
    return {
        name: round(statistics.median(values), 2) if name == "seconds" else max(values)
        for name, values in columns.items()
    }


def lay_out(folder: Path, images: int) -> None:
    """Lay out a dataset of two classes, few files under `images` names, and the teacher."""
    made = folder / "files"
    made.mkdir()
    files = jpegs(made, CLASSES + FILES).files
    for split, listed, of in (("train", CLASSES, files[:CLASSES]), ("val", images, files[CLASSES:])):
        for index in range(listed):
            link = folder / f"images/{split}/{index % CLASSES}/{index:06d}.JPEG"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(made / of[index % len(of)], link)
    (folder / TEACH).mkdir(parents=True)
    model, provenance = pretrained.random(*MODEL, seed=0)
    folders.save(model, folder / TEACH, provenance.record())


def write_params(folder: Path, images: int) -> None:
    """Write the default parameters with the generated dataset, and `images` images to analyse."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"val_images": None, **DATASET}
    for arguments in (params["teacher"]["model_args"], params["student"]["base"]):
        arguments["img_size"] = DATASET["image_size"]
    params["analysis"]["images_per_class"] = images // CLASSES
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def line(images: list[int], seconds: list[float]) -> dict[str, Any]:
    """The line of least relative squares through the times: intercept, slope, and relative residuals."""
    slope, start = np.polyfit(images, seconds, 1, w=1 / np.array(seconds))
    off = np.array(seconds) / (start + slope * np.array(images)) - 1
    return {
        "start_s": round(float(start), 3),
        "s_per_1000_images": round(1000 * float(slope), 3),
        "off_the_line": [round(float(one), 4) for one in off],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    taken: dict[str, list[dict[str, float]]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder, max(options.images))
        for images in options.images:
            write_params(folder, images)
            measured(folder, "prepare")
            for stage in STAGES:
                rounds = range(max(1, REPEATED // images))
                module = ["extract"] if stage == "extract" else ["analyse", stage]
                taken[stage].append(combined([measured(folder, *module, "--backbone", "teacher") for _ in rounds]))
                print(images, stage, taken[stage][-1], file=sys.stderr, flush=True)
        blocks = json.loads((folder / "artifacts/extract/teacher/features.json").read_text())["blocks"]
    results = {}
    failed = []
    for stage, found in taken.items():
        columns = {name: [one[name] for one in found] for name in found[0]}
        fit = line(options.images, columns["seconds"])
        growth = max(columns["peak_mib"]) / min(columns["peak_mib"]) - 1
        results[stage] = {**columns, "growth": round(growth, 4), **fit}
        if growth > MEMORY:
            failed.append(f"{stage}: memory grows by {growth:.1%}")
        first, *loaders = columns["loaders_peak_mib"]
        if max(loaders, default=0.0) > (1 + MEMORY) * first:
            failed.append(f"{stage}: the memory of its loading processes grows from {first} to {max(loaders)} MiB")
        if max(map(abs, fit["off_the_line"])) > TIME:
            failed.append(f"{stage}: time is off a straight line by {max(map(abs, fit['off_the_line'])):.1%}")
    features = [blocks[-1]["tokens"], blocks[-1]["channels"]]
    measuring.save(options.out, "growth", {"features": features, "images": options.images, "results": results})
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
