"""Memory and time of the analyses as images grow: the one bounded but for the result, the other linear.

The features are [49, 96] an image, a sixteenth of a CaiT-S24's [196, 384], and the chunk that is held in memory is
smaller by as much. What counts is memory of the process's own (RssAnon): pages
of the mapped file are the kernel's to take back.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SHAPE = (49, 96)
RESULTS = {"svd": 49, "pca": 96, "sep": 49}  # numbers that each image adds to the result
IMAGES = (1_000, 4_000, 16_000)
MEASURE = """
import json, re, sys, threading, time
from pathlib import Path
from stages.core import features, pca, sep, svd
features.CHUNK_BYTES = 4 * 2**20
analyse = {"svd": svd.energies, "pca": pca.shared_basis, "sep": lambda f: (sep.mean_spectra(f), sep.moment(f))}
tokens = features.read_npy(Path(sys.argv[1]))
analyse[sys.argv[2]](tokens[:200])  # libraries loaded
peak, done = 0, False
def watch():
    global peak
    while not done:
        found = re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())
        peak = max(peak, int(found[1]))
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
started = time.perf_counter()
analyse[sys.argv[2]](tokens)
taken = time.perf_counter() - started
done = True
thread.join()
print(json.dumps({"mib": peak / 1024, "s": taken}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder, rng = tmp_path_factory.mktemp("growth"), np.random.default_rng(0)
    made = {}
    for images in IMAGES:
        made[images] = folder / f"{images}.npy"
        np.save(made[images], rng.standard_normal((images, *SHAPE), dtype=np.float32))
    return made


@pytest.mark.parametrize("analysis", ["svd", "pca", "sep"])
def test_growth(files, analysis, benchmark):
    def measure() -> dict[int, dict[str, float]]:
        found = {}
        for images, file in files.items():
            command = [sys.executable, "-c", MEASURE, str(file), analysis]
            found[images] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found

    found = benchmark.pedantic(measure, rounds=1)
    memory = [one["mib"] for one in found.values()]
    times = np.array([one["s"] for one in found.values()])
    slope = (times @ np.array(IMAGES)) / np.square(IMAGES).sum()  # of the line through the origin
    benchmark.extra_info |= {"MiB": [round(one, 1) for one in memory], "s": times.round(2).tolist()}
    benchmark.extra_info |= {"µs an image": round(float(slope) * 1e6, 1)}
    results_mib = IMAGES[-1] * RESULTS[analysis] * 8 / 2**20
    assert max(memory) - results_mib <= 1.1 * min(memory)
    assert times[2] / times[1] == pytest.approx(IMAGES[2] / IMAGES[1], rel=0.35)
