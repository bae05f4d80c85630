"""Dims that accuracy needs: a model's top-1 on the validation images with few dimensions of its tokens kept."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from stages.core.analysis.dims import BASES, shown_level
from stages.core.analysis.registry import Columns, Measured
from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError
from stages.core.config.schema import Percent, Section

if TYPE_CHECKING:
    import torch

PURPOSE = "top-1 with the last tokens kept in ever fewer dims"


class Params(Section):
    """`points` counts of dimensions, and shares of the whole top-1, in percent."""

    points: Annotated[int, Field(ge=2)]
    shares: Annotated[list[Percent], Field(min_length=1)]


def measure(
    model: Any, sample: Iterable[Any], validation: Iterable[Any], device: "torch.device", settings: Params
) -> Measured:
    """The curve of top-1 by kept dimensions, and the dimensions that keep shares of it.

    Args:
        model: a timm model on `device`, in evaluation mode.
        sample: batches (images, labels) by which the shared basis is found, to be gone through twice.
        validation: batches on which top-1 is measured.
        device: where the model is.
        settings: see the class.
    """
    from stages.core.analysis import kept_dims  # here: torch, which the check of params must not import

    images, _ = next(iter(sample))
    try:
        block = kept_dims.last_read_block(model, images.to(device))
    except UserError as error:  # the rest of the pipeline does not need it
        nothing = {"dims": np.zeros(0, int), "top1": np.zeros((len(BASES), 0))}
        return Measured({"not_measured": str(error)}, nothing, f"not measured: {error}")
    basis = kept_dims.directions(model, sample, device, block)
    channels = len(basis.shared)
    dims = kept_dims.grid(channels, settings.points)
    whole, top1 = kept_dims.top1_by_dims(model, validation, device, block=block, shared=basis.shared, dims=dims)
    metrics: dict[str, Any] = {
        "block": block,
        "last_block": len(model.feature_info) - 1,
        "channels": channels,
        "top1": whole,
        "shares": settings.shares,
        "bases": kept_dims.summary(dims, top1, whole, settings.shares),
        "energy": basis.energy_dims(settings.shares),
    }
    share = shown_level(settings.shares)
    shared, per_image = (metrics["bases"][name]["dims"][str(share)] for name in BASES)
    found = f"{shared} of {channels} shared dims, or {per_image} of each image's own, keep {share} % of top-1"
    arrays = {"dims": np.array(dims), "top1": np.array([top1[name] for name in BASES])}  # percent, [BASES, dims]
    return Measured(metrics, arrays, found)


def tables(folder: Path) -> Iterator[tuple[str, Columns]]:
    """Top-1 with the first `dims` dimensions kept, shared ones and each image's own."""
    top1 = dict(zip(BASES, read_npy(folder / "top1.npy"), strict=True))
    yield "truncation", {"dims": read_npy(folder / "dims.npy"), **top1}
