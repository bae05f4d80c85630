"""The frozen teacher of one task or of several: one pass over a batch serves every student that learns from it."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from timm.task import DistillationTeacher, TrainingTask
from torch import Tensor, nn

from stages.core.models.maps import forward_with_maps
from stages.core.models.talking_heads import fuse_talking_heads
from stages.core.runtime import machine

LAST = ("last",)


class WithMaps(nn.Module):
    """A model whose forward pass gives logits and maps at once, so that DDP and compile see one call.

    Attributes:
        model: a timm model.
        projectors: what the map of each block is read through; trained with the model, not saved with it.
        targets: of a student, what the teacher's map of each block is turned into before it is compared.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str] = LAST,
        projectors: nn.ModuleList | None = None,
        targets: nn.ModuleList | None = None,
    ) -> None:
        super().__init__()
        self.model, self.blocks = model, list(blocks)
        self.projectors = nn.ModuleList(nn.Identity() for _ in blocks) if projectors is None else projectors
        self.targets = nn.ModuleList(nn.Identity() for _ in blocks) if targets is None else targets

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [images, classes] and for each block a map [images, channels, rows, columns]."""
        logits, maps = forward_with_maps(self.model, images, self.blocks)
        return logits, [project(block_map) for project, block_map in zip(self.projectors, maps, strict=True)]


class TeacherOutput(NamedTuple):
    """A teacher's logits [images, classes] and, for each block, its map [images, channels, rows, columns]."""

    logits: Tensor
    maps: list[Tensor]


class FrozenTeacher(DistillationTeacher):
    """A frozen copy of a teacher, in evaluation mode, that gives logits and maps.

    Attributes:
        blocks: the blocks whose maps it gives.

    Args:
        teacher: a timm model, which is left as it is.
        blocks: all blocks that the tasks compare.
        device: of the copy.
        dtype: of the copy's weights and of its input.
        autocast: type of its matrix products under autocast; None to do without.
    """

    def __init__(
        self,
        teacher: nn.Module,
        blocks: Sequence[str] = LAST,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        frozen = copy.deepcopy(teacher).requires_grad_(False).to(dtype)
        if machine.fused_talking_heads(device, autocast or dtype):
            fuse_talking_heads(frozen)
        super().__init__(frozen, device=device)
        self.bare, self.blocks = [frozen], list(blocks)  # a list, so that it is no submodule beside `model`
        self.model = WithMaps(frozen, blocks)
        self.dtype, self.autocast = dtype, autocast
        self.compiled = False

    def compile(self, **options: Any) -> Self:
        """Compile the pass, once, however many tasks ask for it."""
        if not self.compiled:
            super().compile(**options)
            self.compiled = True
        return self

    def output(self, images: Tensor) -> TeacherOutput:
        """Logits and the maps of `blocks`.

        Args:
            images: [images, 3, height, width], normalised for the teacher.
        """
        device, autocast = images.device.type, self.autocast
        with torch.inference_mode(), torch.autocast(device, autocast, enabled=autocast is not None):
            logits, maps = self(images.to(self.dtype))
        # Copies, because the backward pass does not accept tensors of inference mode; in float32, so that pooling does
        # not round again.
        logits, *maps = (output.to(torch.float32, copy=True) for output in (logits, *maps))
        return TeacherOutput(logits, maps)


def teacher_outputs(tasks: Sequence[TrainingTask], images: Tensor) -> list[TeacherOutput | None]:
    """What the teacher of each task says of a batch, in one pass for all that share it; None for a task without one.

    Args:
        tasks: whose students take images normalised alike.
        images: [images, 3, height, width], normalised for the students.
    """
    passes: dict[FrozenTeacher, TeacherOutput] = {}
    outputs: list[TeacherOutput | None] = []
    for task in tasks:
        teacher: Any = getattr(task, "teacher", None)
        if not isinstance(teacher, FrozenTeacher):
            outputs.append(None)
            continue
        distilling: Any = task  # a `stages.core.distillation.task.MapDistillationTask`
        if teacher not in passes:
            passes[teacher] = teacher.output(distilling.renormalize(images))
        outputs.append(distilling.of_own_blocks(passes[teacher]))
    return outputs
