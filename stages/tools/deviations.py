"""Say which differences from the tracked results are rounding's: python -m stages.tools.deviations.

After `dvc repro` on another kind of CPU the tracked results change a little. This compares reports/results in the
working tree with those of a commit, quantity by quantity, and ends with exit status 1 where a difference is larger than
rounding explains: a few times what other kernels and threads cause on one machine (reports/rounding.json). The images
must be the same.
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_json
from stages.core.evidence.deviations import deviations, kind
from stages.paths import MANIFEST, REPORTS, RESULTS

ROUNDING = REPORTS / "rounding.json"


def extract(commit: str, folder: Path) -> Path:
    """Write the tracked results of a commit under `folder`, and return where.

    Raises:
        UserError: git has no such commit, or it has no results.
    """
    command = ["git", "archive", commit, "--", RESULTS.as_posix()]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UserError("git cannot be run; install it") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"`{' '.join(command)}` fails: {' '.join(error.stderr.decode().split())}") from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder / RESULTS


def check_images(commit: str) -> None:
    """Refuse results of other images, where the commit says of which its own are.

    Raises:
        UserError: the manifests differ: their digests are equal on every machine.
    """
    shown = subprocess.run(["git", "show", f"{commit}:./{MANIFEST.as_posix()}"], capture_output=True)
    if shown.returncode == 0 and json.loads(shown.stdout) != read_json(MANIFEST):
        raise UserError(f"{MANIFEST} differs from that of {commit}: other images or splits; compare runs of the same")


def main() -> None:
    """Compare, or with --record keep what other kernels cause."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="HEAD", help="whose tracked results to compare with (default: HEAD)")
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep them in {ROUNDING}, too: only other kernels or threads have caused them",
    )
    asked = parser.parse_args()
    if not RESULTS.is_dir():
        raise UserError(f"{RESULTS} is missing; run `dvc repro` to make it")
    with tempfile.TemporaryDirectory() as made:
        found = deviations(extract(asked.commit, Path(made)), RESULTS)
    check_images(asked.commit)
    measured = dict(read_json(ROUNDING)) if ROUNDING.is_file() else {}
    if asked.record:
        for one in found:
            measured[kind(one.quantity)] = max(one.difference, measured.get(kind(one.quantity), 0.0))
        write_json(ROUNDING, {name: float(f"{measured[name]:.2g}") for name in sorted(measured)})
        print(f"{len(found)} quantities differ between kernels: recorded in {ROUNDING}")
        return
    larger = [one for one in found if not one.is_rounding(measured)]
    for one in larger:
        print(f"{one.quantity}: {one.difference:.3g} (other kernels: {measured.get(kind(one.quantity), 0.0):.3g})")
    if larger:
        raise UserError(f"{len(larger)} of {len(found)} differences from {asked.commit} are larger than rounding's")
    print(f"{len(found)} quantities differ from {asked.commit}, none by more than rounding explains")


if __name__ == "__main__":
    run(main)
