"""Dims that accuracy needs: the teacher's top-1 on the validation images with few dimensions of its tokens kept."""

from stages import messages
from stages.core.analysis import rank
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, write_csv, write_json
from stages.core.config import params
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.runtime import machine
from stages.paths import MANIFEST, PARAMS, PREPARE, RANK, TEACH

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write the curve of top-1 by kept dimensions, and the dimensions that keep shares of it."""
    settings = params.load(PARAMS)
    data, options = settings.dataset, settings.analysis.rank
    device = machine.device()
    machine.share_cores(device)
    messages.begin("rank", "the teacher's top-1 with its last tokens kept in ever fewer dims")
    teacher = folders.load(TEACH).to(device)
    sample, validation = (
        evaluation_batches(
            image_list(data, part, prepared=PREPARE, manifest_file=MANIFEST),
            teacher,
            batch=BATCH,
            workers=machine.workers(),
        )
        for part in ("sample", "val")
    )
    record = {key: folders.provenance(TEACH)[key] for key in ("architecture", "weights")}
    images, _ = next(iter(sample))
    rows = []
    try:
        block = rank.last_read_block(teacher, images.to(device))
    except UserError as error:  # the rest of the pipeline does not need it
        found = f"not measured: {error}"
        metrics = {**record, "not_measured": str(error)}
    else:
        shared = rank.shared_directions(teacher, sample, device, block)
        dims = rank.grid(len(shared), options.points)
        batches = messages.bar(validation, "rank", "batch")
        whole, top1 = rank.top1_by_dims(teacher, batches, device, block=block, shared=shared, dims=dims)
        rows = [{"dims": d, **{name: curve[place] for name, curve in top1.items()}} for place, d in enumerate(dims)]
        metrics = {
            **record,
            "block": block,
            "last_block": len(teacher.feature_info) - 1,  # type: ignore[arg-type]
            "channels": len(shared),
            "top1": whole,
            "shares": options.shares,
            "bases": rank.summary(dims, top1, whole, options.shares),
        }
        share = messages.shown_level(options.shares)
        kept, own = (metrics["bases"][basis]["dims"][str(share)] for basis in ("shared", "own"))
        found = f"{kept} of {len(shared)} shared dims, or {own} of each image's own, keep {share} % of top-1"
    with atomic_folder(RANK) as folder:
        write_json(folder / "metrics.json", metrics)
        write_csv(folder / "curve.csv", rows, columns=("dims", *rank.BASES))  # top-1, percent
    messages.end("rank", found, RANK)


if __name__ == "__main__":
    run(main)
