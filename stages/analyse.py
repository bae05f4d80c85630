"""One analysis of one backbone's features, by its name: python -m stages.analyse NAME --backbone BACKBONE."""

from stages import arguments, messages, missing
from stages.core.analysis import registry
from stages.core.base.errors import run
from stages.core.config import params
from stages.core.features.store import describe
from stages.paths import ARTIFACTS, EXTRACT, PARAMS, PREPARE


def main() -> None:
    """Write what the analysis measures."""
    parser = arguments.of_backbone(__doc__, params.load(PARAMS).analysis.backbones)
    parser.add_argument("analysis", choices=registry.NAMES)
    chosen = parser.parse_args()
    backbone, name = chosen.name, chosen.analysis
    features, out = EXTRACT / backbone, ARTIFACTS / name / backbone
    if missing.passed_on(features / missing.FILE, out):
        return
    analysis = registry.load(name)
    settings = params.load(PARAMS, registry.sections(name)).analysis.section(name)
    messages.begin(f"{name} {backbone}", analysis.PURPOSE.format(**settings.model_dump()))
    source = registry.Source(features, PREPARE, lambda other: ARTIFACTS / other / backbone)
    measured = analysis.measure(source, settings)
    measured.write(out, describe(features))
    messages.end(f"{name} {backbone}", measured.found, out)


if __name__ == "__main__":
    run(main)
