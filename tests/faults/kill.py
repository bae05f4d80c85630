"""Kill the pipeline's stages at random moments, again and again, and see that nothing is lost.

    python -m tests.faults.kill --kills 100 --seed 0 --out reports/faults.json

In a copy of the repository every stage is run once to its end: the reference. Then, in each round, the outputs and
the checkpoint of a stage are removed, its process group is killed a few times at random moments, and it is run to its
end. After every kill an output is there whole or not at all; after every round all outputs equal the reference's, bit
for bit but for the speed, and no temporary file is left.
"""

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ("recipe.epochs=2", "teacher.recipe.epochs=2", "analysis.images_per_class=2", "seeds=[0]", "strategy=lift")
SMALL = (*SMALL, "objective=mse", "analysis.sep.permutations=5")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OF = ("--backbone", "teacher")
STAGES = {  # in order: arguments, outputs
    "prepare": ((), ("artifacts/prepare", "reports/data.json")),
    "teach": ((), ("artifacts/teach",)),
    "extract": (OF, ("artifacts/extract/teacher",)),
    "svd": (OF, ("artifacts/svd/teacher",)),
    "pca": (OF, ("artifacts/pca/teacher",)),
    "sep": (OF, ("artifacts/sep/teacher",)),
    "train": (("--strategy", "lift", "--objective", "mse", "--seed", "0"), ("artifacts/train/lift-mse-0",)),
    "cost": ((), ("artifacts/cost",)),
    "summarize": ((), ("reports/results", "reports/metrics.json")),
    "audit": ((), ("reports/audit.json",)),
    "report": ((), ("reports/notebooks", "reports/figures", "artifacts/html")),
}
RESUMED = {"teach": "teach", "train": "lift-mse-0"}
SPEED = re.compile(rb'"train_images_per_s": [\d.]+')


class Harness:
    """A copy of the repository in which stages are run and killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.reference: dict[str, dict[str, str]] = {}
        self.took: dict[str, float] = {}
        self.kills: Counter[str] = Counter()
        self.in_checkpoint = 0

    def copy(self) -> None:
        """Copy what git knows, and compose small parameters."""
        names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
        for name in names.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith("reports/studies"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "reports/studies").mkdir(parents=True, exist_ok=True)
        self.finish("compose", *SMALL)

    def start(self, stage: str, *arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
        """Start a stage in a process group of its own; `limit` is the bytes that a file may have, as on a full disk."""
        workers = "1" if limit is None else "0"  # whose shared memory counts as a file

        def restrict() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "CHECKPOINT_MINUTES": "0", "WORKERS": workers},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=restrict,
        )

    def finish(self, stage: str, *arguments: str) -> None:
        """Run a stage to its end."""
        process = self.start(stage, *arguments)
        said, _ = process.communicate()
        assert process.returncode == 0, said

    def content(self, stage: str) -> dict[str, str]:
        """Digest of every file of a stage's outputs, speed and DVCLive's own files apart."""
        found = {}
        for output in STAGES[stage][1]:
            top = self.folder / output
            for path in sorted([top] if top.is_file() else top.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and "/live/" not in name and name != "reports/results/runs.csv":
                    found[name] = hashlib.sha256(SPEED.sub(b"", path.read_bytes())).hexdigest()
        return found

    def temporaries(self) -> list[Path]:
        """Temporary files and folders that are there."""
        tops = [self.folder / name for name in ("artifacts", "reports", ".ckpt")]
        return [path for top in tops for path in top.rglob(".*.tmp")]

    def refer(self, stages: list[str]) -> None:
        """Run stages to their end, and remember what came of it."""
        for stage in stages:
            started = time.monotonic()
            self.finish(stage, *STAGES[stage][0])
            self.took[stage] = time.monotonic() - started
            self.reference[stage] = self.content(stage)
            assert self.reference[stage]

    def clear(self, stage: str) -> None:
        """Remove a stage's outputs, as DVC does before it runs one, and its checkpoint."""
        for output in STAGES[stage][1]:
            path = self.folder / output
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for checkpoint in self.folder.glob(f".ckpt/{RESUMED.get(stage, 'none')}-*"):
            shutil.rmtree(checkpoint)

    def whole_or_absent(self, stage: str) -> None:
        """Check that what is there of a stage's outputs is as in the reference."""
        wrong = {name for name, digest in self.content(stage).items() if self.reference[stage].get(name) != digest}
        wrong = {name for name in wrong if not re.search(r"/\..*\.\d+\.tmp", f"/{name}")}
        assert not wrong, f"{stage}: {wrong} is half-written"

    def kill(self, stage: str) -> None:
        """Start a stage and kill its process group at a random moment of its usual time."""
        process = self.start(stage, *STAGES[stage][0])
        time.sleep(self.random.uniform(0.3, 1.0) * self.took[stage])
        sent = self.random.choice(SIGNALS)
        if process.poll() is None:
            self.in_checkpoint += any((self.folder / ".ckpt").rglob(".*.tmp"))
            os.killpg(process.pid, sent)
            self.kills[f"{stage} {sent.name}"] += 1
        said, _ = process.communicate()
        if sent == signal.SIGTERM and "stopped by SIGTERM" in said:
            self.kills["of them stopped with a checkpoint"] += 1
        self.whole_or_absent(stage)

    def recover(self, stage: str) -> None:
        """Run a stage to its end after kills, and compare."""
        self.finish(stage, *STAGES[stage][0])
        assert self.content(stage) == self.reference[stage], f"{stage} gives another result after a kill"
        assert not self.temporaries(), self.temporaries()

    def fill_the_disk(self, stage: str, limit: int) -> str:
        """What a stage says when no file may be larger than `limit` bytes."""
        self.clear(stage)
        process = self.start(stage, *STAGES[stage][0], limit=limit)
        said, _ = process.communicate()
        assert process.returncode == 1, said
        self.whole_or_absent(stage)
        assert not self.temporaries(), self.temporaries()
        return said.splitlines()[-1]

    def total(self) -> int:
        """Kills that met a running process."""
        return sum(count for name, count in self.kills.items() if not name.startswith("of them"))


def main() -> None:
    """Kill as often as asked, over all stages, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), asked.seed)
        harness.copy()
        harness.refer(list(STAGES))
        stages = list(STAGES)
        while harness.total() < asked.kills:
            for stage in [*stages, "train", "teach"]:
                harness.clear(stage)
                for _ in range(4):
                    if harness.total() < asked.kills:
                        harness.kill(stage)
                harness.recover(stage)
                print(f"{harness.total()} kills, the last of {stage}", flush=True)
        seen = {"kills": harness.total(), "while a checkpoint was written": harness.in_checkpoint}
        record = {**seen, "seed": asked.seed, "by stage and signal": dict(sorted(harness.kills.items()))}
        print(json.dumps(record, indent=2))
        if asked.out:
            asked.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
