"""Say which weights each analysed backbone has: the teacher's, by their digest, or its own.

`extract` of a backbone depends on its own line alone, so that another teacher runs the extraction of the teacher's
features again, and of no other backbone.
"""

from stages import messages
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, sha256, write_json
from stages.core.base.names import TEACHER
from stages.core.config import params
from stages.paths import PARAMS, TEACH, WEIGHTS


def main() -> None:
    """Write a file for each backbone that params name."""
    analysis = params.load(PARAMS).analysis
    messages.begin("weights", "notes whose weights each backbone has")
    with atomic_folder(WEIGHTS) as folder:
        for backbone in analysis.backbones:
            if backbone == TEACHER:
                digests = {name: sha256(TEACH / name) for name in ("config.json", "model.safetensors")}
                write_json(folder / f"{backbone}.json", {"weights": TEACHER, **digests})
            else:
                write_json(folder / f"{backbone}.json", {"weights": analysis.weights})
    messages.end("weights", messages.counted(len(analysis.backbones), "backbone"), WEIGHTS)


if __name__ == "__main__":
    run(main)
