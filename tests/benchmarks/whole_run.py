"""How long a default run takes, and how much of it is training: python tests/benchmarks/whole_run.py --out FILE.

Runs `dvc repro` in a fresh clone of the last commit, without a cache and then with nothing changed. Then runs `teach`
and one student of `train` with the default parameters as DVC does, each in a process of its own in an empty folder, and
compares the duration of the process with the time that it reports for its training steps. Machines differ by a factor
of two and more, so that the whole is told in units of `python -c "import timm"`, too.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import measuring

from stages.core.base.files import read_json
from stages.core.base.names import Run
from stages.core.config import params, schema
from stages.core.train.outputs import SPEED

ROOT = Path(__file__).resolve().parents[2]
RUN = Run("widen", "mse", 0)


def timed(folder: Path, stage: str, *arguments: str) -> float:
    """Seconds of one stage's process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FRESH": "1"}
    environment.pop("DVC_ROOT", None)
    started = time.perf_counter()
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return time.perf_counter() - started


def unit() -> float:
    """Seconds of `python -c "import timm"`, the second of two in a row, when its files are in memory."""
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import timm"], check=True)
    return time.perf_counter() - started


def repro(folder: Path) -> dict[str, float]:
    """Time of `dvc repro` in a clone without cache, then with nothing changed, and its largest process's memory."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": scripts, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    environment.pop("DVC_ROOT", None)
    taken, units = [], [unit()]
    for _ in range(2):
        started = time.perf_counter()
        ended = subprocess.run(["dvc", "repro"], cwd=folder, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(ended.stdout + ended.stderr)
        taken.append(time.perf_counter() - started)
        units.append(unit())
    one = statistics.median(units)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # Linux counts in KiB
    return {
        "repro_s": round(taken[0], 1),
        "unchanged_s": round(taken[1], 2),
        "unit_s": round(one, 2),
        "repro_units": round(taken[0] / one, 1),
        "unchanged_units": round(taken[1] / one, 2),
        "largest_process_gib": round(memory, 2),
    }


def stepping(folder: Path, run: str, recipe: schema.Recipe, images: int) -> float:
    """Seconds that the steps of a run took, whose speed is beside its checkpoint."""
    trained = recipe.epochs * (images // recipe.global_batch) * recipe.global_batch
    (speed,) = (folder / ".ckpt").glob(f"{run}-*/{SPEED}")
    return trained / read_json(speed)["train_images_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--folder", type=Path, help="where to work; the clone with its results stays there")
    asked = parser.parse_args()
    taken: dict[str, dict[str, list[float]]] = {}
    with nullcontext(asked.folder) if asked.folder else tempfile.TemporaryDirectory() as made:
        whole = repro(Path(made) / "clone")
        folder = Path(made) / "stages"
        folder.mkdir()
        shutil.copy(ROOT / "params.yaml", folder)
        composed = params.load(folder / "params.yaml")
        assert composed.teacher.recipe is not None
        timed(folder, "prepare")
        images = read_json(folder / "reports/data.json")["train"]["images"]
        options = ("--seed", str(RUN.seed), "--only", RUN.name)
        for _ in range(asked.rounds):
            for stage, arguments, run, recipe in (
                ("teach", (), "teach", composed.teacher.recipe),
                ("train", options, RUN.name, composed.recipe),
            ):
                seconds = timed(folder, stage, *arguments)
                steps = stepping(folder, run, recipe, images)
                of_stage = taken.setdefault(stage, {"whole_s": [], "steps_s": [], "share_outside": []})
                for name, value in (("whole_s", seconds), ("steps_s", steps), ("share_outside", 1 - steps / seconds)):
                    of_stage[name].append(value)
    measured: dict[str, Any] = {
        stage: {name: measuring.spread(values, 3) for name, values in found.items()} for stage, found in taken.items()
    }
    measuring.save(asked.out, "whole_run", {"profile": composed.profile, "run": RUN.name, **whole, **measured})


if __name__ == "__main__":
    main()
