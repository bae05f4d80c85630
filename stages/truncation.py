"""Dims that accuracy needs: a model's top-1 on the validation images with few dimensions of its tokens kept."""

from stages import arguments, messages, missing
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, write_csv, write_json
from stages.core.config import params
from stages.paths import MANIFEST, PARAMS, PREPARE, TRUNCATION, WEIGHTS

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write the curve of top-1 by kept dimensions, and the dimensions that keep shares of it."""
    settings = params.load(PARAMS)
    backbone = arguments.model(__doc__, settings.plan["truncation"])
    if missing.passed_on(WEIGHTS / f"{backbone}.json", TRUNCATION / backbone):
        return
    from stages.core.analysis import truncation  # here: torch and timm, which take seconds
    from stages.core.analysis.dims import shown_level
    from stages.core.data.batches import evaluation_batches
    from stages.core.data.dataset import image_list
    from stages.core.runtime import machine
    from stages.opening import open_classifier

    stage, options = f"truncation {backbone}", settings.analysis.truncation
    device = machine.device()
    machine.share_cores(device)
    messages.begin(stage, "top-1 with the last tokens kept in ever fewer dims")
    model, provenance = open_classifier(backbone, settings)
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
    record = {"backbone": backbone, **{key: provenance[key] for key in ("architecture", "weights")}}
    images, _ = next(iter(sample))
    rows = []
    try:
        block = truncation.last_read_block(model, images.to(device))
    except UserError as error:  # the rest of the pipeline does not need it
        found = f"not measured: {error}"
        metrics = {**record, "not_measured": str(error)}
    else:
        basis = truncation.directions(model, sample, device, block)
        channels = len(basis.shared)
        dims = truncation.grid(channels, options.points)
        batches = messages.bar(validation, stage, "batch")
        whole, top1 = truncation.top1_by_dims(model, batches, device, block=block, shared=basis.shared, dims=dims)
        rows = [{"dims": d, **{name: curve[place] for name, curve in top1.items()}} for place, d in enumerate(dims)]
        metrics = {
            **record,
            "block": block,
            "last_block": len(model.feature_info) - 1,  # type: ignore[arg-type]
            "channels": channels,
            "top1": whole,
            "shares": options.shares,
            "bases": truncation.summary(dims, top1, whole, options.shares),
            "energy": basis.energy_dims(options.shares),
        }
        share = shown_level(options.shares)
        kept, own = (metrics["bases"][name]["dims"][str(share)] for name in truncation.BASES)
        found = f"{kept} of {channels} shared dims, or {own} of each image's own, keep {share} % of top-1"
    with atomic_folder(TRUNCATION / backbone) as folder:
        write_json(folder / "metrics.json", metrics)
        write_csv(folder / "curve.csv", rows, columns=("dims", *truncation.BASES))  # top-1, percent
    messages.end(stage, found, TRUNCATION / backbone)


if __name__ == "__main__":
    run(main)
