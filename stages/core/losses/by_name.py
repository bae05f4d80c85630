"""A feature loss by its name, that of its file."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from torch import Tensor


class FeatureLoss(NamedTuple):
    """A feature loss as a task uses it; what it is, is told in `stages.core.losses`.

    Attributes:
        function: of a student's and a teacher's map.
        any_width: it compares maps of any two widths; otherwise it compares channel by channel.
        whole_batch: it depends on all images of the global batch together, which must not come in pieces.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    any_width: bool
    whole_batch: bool


def module_of(name: str) -> str:
    """The module of a feature loss."""
    return f"stages.core.losses.{name}"


def feature_loss(name: str) -> FeatureLoss:
    """Import the feature loss of a name that params accept."""
    module = import_module(module_of(name))
    return FeatureLoss(module.loss, getattr(module, "ANY_WIDTH", False), getattr(module, "WHOLE_BATCH", False))
