"""Whether timm models go through the whole pipeline, found before any work: made without weights, on shapes alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.config.params import Params
from stages.core.models import folders
from stages.core.models.blocks import DROP_PATH_CALLS, recorded_blocks
from stages.core.models.copying import copy_blocks
from stages.core.models.maps import forward_with_maps

IMAGES = 2  # that models are shown
BLOCKS = ("first", "last")


class Looked(NamedTuple):
    """A model that suits, and the shapes of its first and last block's maps: channels, rows, columns."""

    model: nn.Module
    maps: dict[str, tuple[int, ...]]


def check_models(settings: Params) -> None:
    """Check that teacher and students can be made, trained, saved and analysed, and compared where params say so.

    A pretrained teacher is left out: its arguments may be in a config.json beside its weights.

    Raises:
        UserError: the text names the key of params.yaml and what the model lacks.
    """
    size, classes = settings.dataset.image_size, settings.dataset.classes
    teacher = None
    if settings.teacher.weights != "pretrained":
        arguments = settings.teacher.model_args.keyword_arguments()
        teacher = look("teacher", settings.teacher.architecture, arguments, size, classes)
    students = {}
    for strategy in settings.strategy.names:
        key, chosen = f"student.strategies.{strategy}", settings.student.model(strategy, settings.teacher)
        students[strategy] = look(key, *chosen, size, classes)
        if teacher and settings.student.strategies[strategy].copies_teacher:
            try:
                copy_blocks(students[strategy].model, teacher.model)
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
    for run in settings.grid.listed():
        objective = settings.objective.definitions[run.objective]
        if teacher and objective.feature:
            for block in objective.blocks:
                own, other = students[run.strategy].maps[block], teacher.maps[block]
                _check_maps(run.strategy, run.objective, block, own, other, refuses_wider=objective.refuses_wider)


def _check_maps(
    strategy: str, objective: str, block: str, own: tuple[int, ...], other: tuple[int, ...], *, refuses_wider: bool
) -> None:
    remedy = f"leave {strategy} or {objective} out, or let grid.blocks pair {strategy} with other objectives"
    if own[1:] != other[1:]:
        grids = " and ".join("×".join(map(str, shape[1:])) for shape in (own, other))
        raise UserError(
            f"student.strategies.{strategy}: objective.names: {objective} compares the {block} blocks' maps, and the "
            f"grids of student and teacher are {grids}; {remedy}"
        )
    if refuses_wider and own[0] > other[0]:
        raise UserError(
            f"student.strategies.{strategy}: the {block} block's {own[0]} channels are more than the teacher's "
            f"{other[0]}, which objective.names: {objective} cannot compare; {remedy}"
        )


def look(key: str, architecture: str, arguments: Mapping[str, Any], size: int, classes: int) -> Looked:
    """Make a model and follow it through what the stages do with it, without weights where timm can.

    Args:
        key: of params.yaml, for messages.
        architecture: a timm name.
        arguments: of the architecture.
        size: height and width of the images.
        classes: of the head.

    Raises:
        UserError: timm cannot make it, it takes no such images, or it lacks what a stage needs.
    """
    try:
        return _look(architecture, arguments, size, classes, "meta")
    except Exception:  # of whatever a model does that has no meaning without values
        try:
            return _look(architecture, arguments, size, classes, "cpu")
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def _look(architecture: str, arguments: Mapping[str, Any], size: int, classes: int, device: str) -> Looked:
    options: dict[str, Any] = {"crop_pct": 1.0, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with torch.device(device):
        model = folders.create(architecture, dict(arguments), classes=classes, seed=0, image_size=size, **options)
        images = torch.zeros(IMAGES, 3, size, size)
    if not (hasattr(model, "forward_intermediates") and getattr(model, "feature_info", None)):
        raise UserError(f"timm's {architecture} gives no maps of its blocks (forward_intermediates)")
    try:
        with recorded_blocks(model) as outputs:
            logits = model.eval()(images)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{architecture} takes no images of {size}×{size}, dataset.image_size ({reason})") from None
    if not isinstance(logits, Tensor) or logits.shape != (IMAGES, classes):
        raise UserError(f"{architecture} does not give one logit for each of {classes} classes")
    _check_blocks(architecture, model, logits, outputs)
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise UserError(f"{architecture} uses some weights in two places, which safetensors cannot save")
    _check_drop_path(architecture, model, images)
    with torch.no_grad():
        _, maps = forward_with_maps(model.eval(), images, BLOCKS)
    return Looked(model, {block: tuple(found.shape[1:]) for block, found in zip(BLOCKS, maps, strict=True)})


def _check_blocks(architecture: str, model: nn.Module, logits: Tensor, outputs: list[Tensor]) -> None:
    """Check that what leaves each block can be recorded and differentiated by, as stage `dynamics` does."""
    tensors = [output for output in outputs if isinstance(output, Tensor) and output.ndim in (3, 4)]
    try:
        complete = len(tensors) == len(outputs) == len(model.feature_info)  # type: ignore[arg-type]
        torch.autograd.grad(logits.sum(), tensors)
    except (RuntimeError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"what leaves the blocks of timm's {architecture} (feature_info) cannot be recorded")


def _check_drop_path(architecture: str, model: nn.Module, images: Tensor) -> None:
    """Check that drop path decides for whole images, and as often as `DROP_PATH_CALLS` says."""
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[module] = calls.get(module, 0) + (1 if len(inputs[0]) == len(images) else DROP_PATH_CALLS + 1)

    paths = [module for module in model.modules() if isinstance(module, DropPath) and module.drop_prob]
    hooks = [path.register_forward_pre_hook(count) for path in paths]
    if paths:
        model.train()(images)
    for hook in hooks:
        hook.remove()
    if max(calls.values(), default=0) > DROP_PATH_CALLS:
        raise UserError(f"drop path of {architecture} is not by whole images; set its drop_path_rate to null")
