"""Backbones whose weights are missing: their stages pass that on and do not fail, so that the others are analysed."""

from pathlib import Path

from stages.core.base.files import atomic_folder, read_json, write_json

KEY = "missing"  # of the reason, in the files that say it
FILE = "missing.json"  # all that is in the folder of such a backbone


def passed_on(file: Path, out: Path) -> bool:
    """Whether the weights of a backbone are missing, as a file that need not be there says; then `out` says it too.

    Args:
        file: what `weights` found, or the file FILE of the stage before.
        out: the backbone's folder of this stage.
    """
    said = read_json(file) if file.is_file() else {}
    if KEY not in said:
        return False
    with atomic_folder(out) as folder:
        write_json(folder / FILE, said)
    return True
