"""How the trained students encode the analysis sample, beside their teacher.

One process measures all runs, and computes the teacher's maps once. After a further run it measures all of them
again: that takes less time than starting a process for each.
"""

from functools import partial
from typing import Any

import numpy as np

from stages import messages
from stages.core.analysis import last_block, registry
from stages.core.analysis.cka import block_cka
from stages.core.analysis.dims import floor
from stages.core.analysis.linear_probe import similarity
from stages.core.analysis.pca import principal_directions
from stages.core.analysis.svd import energies
from stages.core.base.arrays import write_npy
from stages.core.base.errors import run
from stages.core.base.files import atomic_folder, write_json
from stages.core.base.names import TEACHER, Run
from stages.core.config import params
from stages.core.config.schema import Objective
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import image_list
from stages.core.distillation import loss_comparison, matching
from stages.core.losses.targets import has_target
from stages.core.models import folders
from stages.core.models.normalization import renormalization
from stages.core.runtime import machine
from stages.paths import ENCODE, MANIFEST, PARAMS, PREPARE, TEACH, run_folder

BATCH = 64  # images at a time; it decides memory, not results


def main() -> None:
    """Write the measures of every run in params and of the teacher, and the teacher's floors."""
    project = params.load(PARAMS, registry.sections(*registry.OF_STUDENTS))
    runs = project.grid.listed()
    names = [one.name for one in runs]
    messages.begin("encode", f"the last tokens of {len(runs)} students beside the teacher's")
    device = machine.device()
    machine.share_cores(device)
    sample = image_list(project.dataset, "sample", prepared=PREPARE, manifest_file=MANIFEST)
    teacher = folders.load(TEACH).to(device)
    first = folders.load(run_folder(runs[0]))
    # Teacher and students see the same images under one transform, that of `dataset`, as in training.
    batches = evaluation_batches(sample, first, batch=BATCH, workers=machine.workers())
    renormalize = renormalization(first, teacher, device)
    target = last_block.last_maps(teacher, batches, device, renormalize)
    images, labels = (shown.to(device) for shown in next(iter(batches)))
    teacher_tokens = last_block.tokens_of(target)
    count, channels, rows, columns = target.shape
    shape = {"images": count, "rows": rows, "columns": columns}
    measured: list[dict[str, Any]] = [
        {
            "run": TEACHER,
            "strategy": TEACHER,
            "width": channels,
            "rank": last_block.map_rank(teacher),
            "reads_matched_tokens": last_block.reads_patch_tokens(teacher, renormalize(images), labels),
            **shape,
            **_analysed(teacher_tokens, project),
            "cka": similarity(teacher_tokens, teacher_tokens).cka,
        }
    ]
    by_block: list[np.ndarray] = []
    matched: list[dict[str, Any]] = []
    images_of = partial(image_list, project.dataset, prepared=PREPARE, manifest_file=MANIFEST)
    check = matching.ManipulationCheck(
        teacher, target, batches, partial(images_of, "train"), recipe=project.recipe, device=device
    )
    for one in messages.bar(runs, "encode", "student"):
        student = folders.load(run_folder(one)).to(device)
        found = last_block.last_maps(student, batches, device)
        tokens = last_block.tokens_of(found)
        by_block.append(block_cka(student, teacher, batches, device, renormalize))
        aligned = found.shape[2:] == target.shape[2:]  # token by token
        near = similarity(tokens, teacher_tokens) if aligned else None
        comparable = has_target(target, found)
        losses = loss_comparison.spectral_against_mse(found, target) if comparable else None
        matched += check.rows(one, student, found, _objectives(project, one)) if aligned else []
        least, most = loss_comparison.ratio_bounds(*found.shape[2:]) if aligned else (None, None)
        measured.append(
            {
                "run": one.name,
                **one._asdict(),
                "width": found.shape[1],
                "rank": last_block.map_rank(student),
                "reads_matched_tokens": last_block.reads_patch_tokens(student, images, labels),
                **dict(zip(shape, (count, *found.shape[2:]), strict=True)),
                **_analysed(tokens, project),
                "cka": near and near.cka,
                "probe_error": near and near.probe_error,
                "probe_equal": near and near.probe_equal,
                "relative_feature_error": loss_comparison.relative_error(found, target) if comparable else None,
                "spectral_over_mse": losses and losses.ratio,
                "spectral_over_mse_least": least,
                "spectral_over_mse_most": most,
                "gradient_cosine": losses and losses.gradient_cosine,
            }
        )
    spectra = (principal_directions(teacher_tokens)[0], energies(teacher_tokens).mean(axis=0))
    with atomic_folder(ENCODE) as folder:
        floors = np.stack([floor(spectrum, channels) for spectrum in spectra])
        write_npy(folder / "floors.npy", floors)  # [(one projector, one per image), channels]
        for name, cka in zip(names, by_block, strict=True):
            write_npy(folder / f"cka-{name}.npy", cka)  # [student's blocks, teacher's blocks]
        write_json(folder / "metrics.json", {"runs": measured, "matching": matched})
    messages.end("encode", _summary(measured[1:]), ENCODE)


def _objectives(project: params.Params, run: Run) -> dict[str, Objective]:
    """The objectives that a run's strategy is trained with, by name."""
    names = dict.fromkeys(other.objective for other in project.grid.listed() if other.strategy == run.strategy)
    return {name: project.objective_of(Run(run.strategy, name, run.seed)) for name in names}


def _analysed(tokens: np.ndarray, project: params.Params) -> dict[str, float]:
    """What the analyses of a backbone's features say of the tokens of one model, [images, tokens, channels]."""
    row: dict[str, float] = {}
    for name in registry.OF_STUDENTS:
        row |= registry.load(name).of_map(tokens, project.analysis.section(name))
    return row


def _summary(students: list[dict[str, Any]]) -> str:
    """The range of the best projector's error, and the students that have no tokens in common with the teacher."""
    known = [row for row in students if row["probe_error"] is not None]
    parts = []
    if known:
        errors = sorted((float(row["probe_error"]), str(row["run"])) for row in known)
        low, high = (f"{error:.3f} ({name})" for error, name in (errors[0], errors[-1]))
        parts.append(f"the best projector's relative error is {low} to {high}")
    if len(known) < len(students):
        others = ", ".join(str(row["run"]) for row in students if row["probe_error"] is None)
        parts.append(f"not compared token by token, for want of the teacher's grid: {others}")
    return "; ".join(parts)


if __name__ == "__main__":
    run(main)
