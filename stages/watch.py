"""Look at images outside the repository, which DVC cannot see: on every `dvc repro`, where params name such a dataset.

What has not changed leaves reports/source.json alone, so that nothing downstream runs again. Where the images are
not at hand, in a clone that only renders reports, say, the record stays.
"""

import sys

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
    _, manifest = survey(data, PREPARE)
    write_json(SOURCE, {"dataset": data.label, **{part: manifest[part]["sha256"] for part in ("train", "val")}})


if __name__ == "__main__":
    run(main)
