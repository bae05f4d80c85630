"""Find the weights of the backbones on every `dvc repro`, as DVC cannot: in WEIGHTS, in the hub's cache, or on the hub.

`extract` of a backbone depends on its own line alone: other weights run it again, and no other backbone. Weights that
are missing are named at once, and stop no other backbone.
"""

import sys

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, write_json
from stages.core.base.names import TEACHER, plural
from stages.core.config import params
from stages.core.models import pretrained
from stages.core.models.pretrained import Provenance
from stages.core.runtime import machine
from stages.missing import KEY
from stages.paths import PARAMS, WEIGHTS


def main() -> None:
    """Write where the weights of each backbone are, or why they are missing."""
    settings = params.load(PARAMS)
    analysis = settings.analysis
    names = [name for name in analysis.backbones if name != TEACHER]
    own = machine.weights()
    messages.begin("weights", f"looks for the weights of {plural(len(names), 'backbone')}")
    found, missing = {}, {}
    for name in messages.bar(names, "weights", "backbone"):
        try:
            on_disk = analysis.weights == "pretrained"
            found[name] = pretrained.located(name, folder=own) if on_disk else Provenance(name, analysis.weights)
        except UserError as error:
            missing[name] = str(error).replace(str(own), "WEIGHTS")  # git tracks it, and no folder of this machine
            print(f"weights: {error}", file=sys.stderr, flush=True)
        else:
            if name in analysis.classifiers:
                pretrained.check_classes(name, settings.dataset.classes, folder=own)
    if len(missing) == len(analysis.backbones):
        raise UserError(f"no backbone can be analysed: {next(iter(missing.values()))}")
    with atomic_folder(WEIGHTS) as folder:
        for name in names:
            write_json(folder / f"{name}.json", found[name].record() if name in found else {KEY: missing[name]})
    messages.end("weights", f"those of {len(found)} of {plural(len(names), 'backbone')}", WEIGHTS)


if __name__ == "__main__":
    run(main)
