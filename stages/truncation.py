"""Dims that accuracy needs: a model's top-1 on the validation images with few dimensions of its tokens kept."""

from stages import arguments, messages, missing
from stages.core.analysis import registry, truncation
from stages.core.base.errors import run
from stages.core.config import params
from stages.paths import MANIFEST, PARAMS, PREPARE, TRUNCATION, WEIGHTS

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write what the analysis measures."""
    settings = params.load(PARAMS, registry.sections("truncation"))
    name = arguments.model(__doc__, settings.plan["truncation"])
    if missing.passed_on(WEIGHTS / f"{name}.json", TRUNCATION / name):
        return
    from stages.core.data.batches import evaluation_batches  # here: torch and timm, which take seconds
    from stages.core.data.dataset import image_list
    from stages.core.runtime import machine
    from stages.opening import open_classifier

    stage = f"truncation {name}"
    device = machine.device()
    machine.share_cores(device)
    messages.begin(stage, truncation.PURPOSE)
    model, provenance = open_classifier(name, settings)
    model = model.to(device)
    sample, validation = (
        evaluation_batches(
            image_list(settings.dataset, part, prepared=PREPARE, manifest_file=MANIFEST),
            model,
            batch=BATCH,
            workers=machine.workers(),
        )
        for part in ("sample", "val")
    )
    options = settings.analysis.section("truncation")
    measured = truncation.measure(model, sample, messages.bar(validation, stage, "batch"), device, options)
    measured.write(
        TRUNCATION / name, {"backbone": name, **{key: provenance[key] for key in ("architecture", "weights")}}
    )
    messages.end(stage, measured.found, TRUNCATION / name)


if __name__ == "__main__":
    run(main)
