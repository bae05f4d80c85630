"""Check images outside the repository for changes on every `dvc repro`, as DVC cannot.

Where nothing changed, reports/source.json stays as it is, and nothing downstream runs again. Where the images cannot
be reached (in a clone that only renders reports, for example), the record is kept.
"""

import sys

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import read_json, write_json
from stages.core.config import params
from stages.core.data.dataset import survey, unavailable
from stages.paths import PARAMS, PREPARE, SOURCE


def main() -> None:
    """Bring the digests of the dataset's images up to date."""
    data = params.load(PARAMS).dataset
    recorded = read_json(SOURCE) if SOURCE.is_file() else {}
    reason = unavailable(data)
    if reason and recorded.get("dataset") == data.label:
        print(f"watch: {SOURCE} stays as recorded: {reason}", file=sys.stderr)
        return
    messages.begin("watch", f"looks whether the images of {data.label} changed")
    _, manifest = survey(data, PREPARE)
    parts = [part for part in ("train", "val") if part in manifest]
    write_json(SOURCE, {"dataset": data.label, **{part: manifest[part]["sha256"] for part in parts}})
    counts = " and ".join(f"{manifest[part]['images']:,} {part}" for part in parts)
    messages.end("watch", f"{counts} images", SOURCE)


if __name__ == "__main__":
    run(main)
