"""How the trained students encode the analysis sample, beside their teacher.

All runs in one process, which takes the teacher's maps once; after a further run it measures all of them again, which
takes less time than the imports of a process for each.
"""

from itertools import product
from typing import Any

from stages.core.analysis import last_block
from stages.core.analysis.encoding import measure
from stages.core.analysis.similarity import similarity
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.base.names import TEACHER, run_name
from stages.core.config import params
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.models import folders
from stages.core.models.normalization import renormalization
from stages.core.runtime import machine
from stages.core.train import map_errors
from stages.core.train.losses import has_target
from stages.paths import ENCODE, MANIFEST, PARAMS, PREPARE, TEACH, TRAIN
from stages.pruning import prune_students

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write the measures of every run that params name and of the teacher, and the teacher's floors."""
    given = params.load(PARAMS)
    analysis = given.analysis
    options: dict[str, Any] = {
        "svd_thresholds": analysis.svd.thresholds,
        "pca_thresholds": analysis.pca.thresholds,
        "sep_thresholds": analysis.sep.thresholds,
        "permutations": analysis.sep.permutations,
        "seed": analysis.sep.seed,
    }
    keys = list(product(given.strategy.names, given.objective.names, given.seeds))
    names = [run_name(*key) for key in keys]
    prune_students(names)
    device = machine.device()
    machine.share_cores(device)
    sample = image_list(given.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)
    teacher = folders.load(TEACH).to(device)
    first = folders.load(TRAIN / names[0])
    # Every student sees images by `dataset`, under one transform; the teacher sees the same ones, as in training.
    batches = evaluation_batches(sample, first, batch=BATCH, workers=machine.workers())
    target = last_block.last_maps(teacher, batches, device, renormalization(first, teacher, device))
    taught = last_block.tokens_of(target)
    own, floors = measure(taught, **options)
    images, channels, rows, columns = target.shape
    shape = {"images": images, "rows": rows, "columns": columns}
    measured = [
        {
            "run": TEACHER,
            "strategy": TEACHER,
            "width": channels,
            "rank": last_block.map_rank(teacher),
            **shape,
            **own,
            "cka": similarity(taught, taught).cka,
        }
    ]
    for name, (strategy, objective, seed) in zip(names, keys, strict=True):
        student = folders.load(TRAIN / name).to(device)
        found = last_block.last_maps(student, batches, device)
        tokens = last_block.tokens_of(found)
        near = similarity(tokens, taught)
        comparable = has_target(target, found)
        losses = map_errors.spectral_against_mse(found, target) if comparable else None
        least, most = map_errors.ratio_bounds(rows, columns)
        measured.append(
            {
                "run": name,
                "strategy": strategy,
                "objective": objective,
                "seed": seed,
                "width": found.shape[1],
                "rank": last_block.map_rank(student),
                **shape,
                **measure(tokens, **options)[0],
                "cka": near.cka,
                "probe_error": near.probe_error,
                "relative_feature_error": map_errors.relative_error(found, target) if comparable else None,
                "spectral_over_mse": losses and losses.ratio,
                "spectral_over_mse_least": least,
                "spectral_over_mse_most": most,
                "gradient_cosine": losses and losses.gradient_cosine,
            }
        )
    with atomic_folder(ENCODE) as folder:
        write_npy(folder / "floors.npy", floors)  # [fixed or per image, channels]
        write_json(folder / "metrics.json", {"runs": measured})


if __name__ == "__main__":
    run(main)
