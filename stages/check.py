"""Check params.yaml before any work: types, names and limits; that timm has the backbones, and can train the models."""

from stages import messages
from stages.core.analysis import registry
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, prune, write_json, write_text
from stages.core.base.names import TEACHER, plural
from stages.core.config import params
from stages.paths import CHECK, CHECKED, PARAMS, TRAIN
from stages.plan import planned


def main() -> None:
    """Check the parameters, and write the marker that the first stages depend on; its content never changes.

    What `train` reads of each student goes into a file per seed, on which it depends: DVC could record no less than all
    strategies and objectives, again for each seed, and would train a seed when one changes that is none of its own.
    """
    settings = params.load(PARAMS, registry.sections())
    analysis, runs = settings.analysis, settings.grid.runs
    if settings.plan != planned(analysis.backbones, analysis.layerwise, analysis.classifiers, runs):
        raise UserError(
            f"{PARAMS}: plan: it is not that of grid.runs and of backbones, layerwise, classifiers in analysis; choose "
            "them by `dvc exp run -S` or `python -m stages.tools.compose`, which write it"
        )
    others = [name for name in analysis.backbones if name != TEACHER]
    if others:
        from stages.core.models import pretrained  # here, because timm takes most of the time of this stage

        for name in dict.fromkeys([*others, *analysis.layerwise, *analysis.classifiers]):
            if name != TEACHER:
                pretrained.check_name(name)
    if settings.unusual:
        from stages.core.models import suitability

        suitability.check_models(settings)
    prune(TRAIN, list(runs))  # seeds that params no longer name
    CHECK.parent.mkdir(exist_ok=True)
    with atomic_folder(CHECK) as folder:
        for seed in runs:
            students = settings.grid.of_seed(int(seed))
            write_json(folder / f"{seed}.json", {one.name: settings.decided(one) for one in students})
    write_text(CHECKED, "params.yaml is valid\n")
    count = len(settings.grid.listed())
    found = f"{plural(count, 'run')}, {plural(len(analysis.backbones), 'backbone')}"
    messages.end("check", f"{PARAMS} is valid: profile {settings.profile}, {found}", CHECKED)


if __name__ == "__main__":
    run(main)
