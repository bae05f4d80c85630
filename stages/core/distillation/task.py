"""A student's objective: cross-entropy, soft labels, and its feature maps against the teacher's.

L = (1 - α)·CE + α·τ²·KL(teacher ‖ student) + w·L_feature

L_feature compares patch-token maps of student and teacher, those of the last block if nothing else is said. Built on
`timm.task`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.task import LogitDistillationTask, TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn

from stages.core.base.errors import UserError
from stages.core.config.schema import Objective
from stages.core.distillation.balanced_targets import BalancedTarget, token_moments
from stages.core.distillation.projectors import make_projectors, projector_widths
from stages.core.losses.by_name import feature_loss
from stages.core.losses.soft_labels import soft_label_loss
from stages.core.losses.targets import check_grids, check_width, feature_target, pool_channels
from stages.core.models.maps import block_index, forward_with_maps
from stages.core.models.normalization import check_preprocessing, renormalization
from stages.core.train.tasks import labels_task
from stages.core.train.teacher import LAST, FrozenTeacher, TeacherOutput, WithMaps


@torch.no_grad()
def check_compatible(
    student: nn.Module, teacher: nn.Module, image_size: int, *, feature: bool, blocks: Sequence[str] = LAST
) -> None:
    """Check, before any training, that a student's logits and maps can be compared with the teacher's.

    Args:
        student, teacher: timm models on one device.
        image_size: height and width of their input.
        feature: whether there is a feature loss that refuses a student wider than its teacher.
        blocks: the blocks that it compares; without a feature loss none.

    Raises:
        UserError: the teacher does not take the student's images, or classes differ, or the grids of compared blocks,
            or there is such a loss and the teacher is narrower than the student.
    """
    check_preprocessing(teacher, image_size)
    outputs = []
    for model in (teacher, student):
        blank = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
        outputs.append(forward_with_maps(model.eval(), blank, blocks))
    (teacher_logits, teacher_maps), (student_logits, student_maps) = outputs
    if teacher_logits.shape != student_logits.shape:
        raise UserError(
            f"the teacher has {teacher_logits.shape[1]} classes, the student {student_logits.shape[1]}; "
            "fit both on one dataset"
        )
    for teacher_map, student_map in zip(teacher_maps, student_maps, strict=True):
        check_grids(teacher_map, student_map)
        if feature:
            check_width(teacher_map, student_map)


class MapDistillationTask(LogitDistillationTask):
    """Distil a teacher's soft labels, its maps, or both, in one pass of each model.

    Args:
        student: a timm model that `forward_with_maps` accepts, on `device`.
        teacher: gives the maps of the blocks that are compared; several tasks may share it, whose students take images
            normalised alike.
        objective: a section of params.
        device: of both models.
        seed: of the projectors' initialisation.
        kwargs: see timm's LogitDistillationTask.

    Raises:
        UserError: an orthogonal projector cannot map the student's channels to the teacher's.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: FrozenTeacher,
        objective: Objective,
        *,
        device: torch.device,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        labels = 1 - objective.alpha
        super().__init__(student, teacher, task_loss_weight=labels, temperature=objective.tau, device=device, **kwargs)
        blocks = objective.blocks if objective.feature else ()  # labels, soft or hard, need no maps
        (frozen,), self.taken = teacher.bare, [teacher.blocks.index(block) for block in blocks]
        self.renormalize = renormalization(student, frozen, device)
        widths = [(_channels(student, block), _channels(frozen, block)) for block in blocks]
        kind = objective.projector
        projectors = make_projectors(projector_widths(widths, kind, project_equal=objective.project_equal), kind, seed)
        balanced = objective.target == "balanced"
        targets = nn.ModuleList(BalancedTarget(width) if balanced else nn.Identity() for _, width in widths)
        self.trainable_module = WithMaps(student, blocks, projectors, targets).to(device)
        self.pool_wider = objective.wider == "pool"
        self.feature_loss = feature_loss(objective.feature) if objective.feature else None
        self.feature_weight = objective.feature_weight

    def balance(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the statistics of balanced targets; without such targets, nothing happens.

        Args:
            batches: images [images, 3, height, width], normalised for the student, and labels; passed over once for
                each block.

        Raises:
            UserError: see `BalancedTarget.set_statistics`.
        """
        for position, target in enumerate(unwrap_model(self.trainable_module).targets):
            if isinstance(target, BalancedTarget):
                maps = (self.teacher_output(images.to(self.device)).maps[position] for images, _ in batches)
                target.set_statistics(*token_moments(maps))

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The bare student, whose forward pass gives logits alone."""
        resolved = super().get_eval_model(module=module, ema=ema)
        return None if resolved is None else getattr(unwrap_model(resolved), "model", resolved)

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What a checkpoint holds beside the student: the projectors' weights and the targets' statistics."""
        trainable = unwrap_model(self.get_trainable_module(ema=ema) if module is None else module)
        state = {"projectors": trainable.projectors.state_dict(), "targets": trainable.targets.state_dict()}
        return state if any(state.values()) else {}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Load what `get_task_state` gave; RuntimeError if it is of another objective."""
        trainable = unwrap_model(self.get_trainable_module(ema=ema) if module is None else module)
        for name in ("projectors", "targets"):
            getattr(trainable, name).load_state_dict((state or {}).get(name, {}), strict=strict)

    def teacher_output(self, images: Tensor) -> TeacherOutput:
        """The teacher's pass over a batch, whatever the student.

        Args:
            images: [images, 3, height, width], normalised for the student.
        """
        return self.of_own_blocks(self.teacher.output(self.renormalize(images)))

    def of_own_blocks(self, output: TeacherOutput) -> TeacherOutput:
        """A shared teacher's output with the maps of this task's blocks alone, in their order."""
        return TeacherOutput(output.logits, [output.maps[position] for position in self.taken])

    def forward(self, input: Tensor, target: Tensor, teacher_output: TeacherOutput | None = None) -> dict[str, Tensor]:
        """The loss of one batch, its parts and the logits.

        Args:
            input: images [images, 3, height, width], normalised for the student.
            target: labels [images].
            teacher_output: the teacher's for them, where it is known already.
        """
        if teacher_output is None:
            teacher_output = self.teacher_output(input)
        logits, maps = self.trainable_module(input)
        parts = {"task_loss": self.criterion(logits, target)}
        loss = self.task_loss_weight * parts["task_loss"]
        if self.feature_loss is not None:
            parts["feature_loss"] = self.compare(maps, teacher_output.maps)
            loss = loss + self.feature_weight * parts["feature_loss"]
        if self.distill_loss_weight:
            parts["kd_loss"] = soft_label_loss(logits, teacher_output.logits, self.temperature)
            loss = loss + self.distill_loss_weight * parts["kd_loss"]
        return {"loss": loss, "output": logits, **parts}

    def compare(self, maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The mean over blocks of the feature loss, computed in float32.

        Args:
            maps: of the student, read through the projectors.
            teacher_maps: of the same blocks, before they are turned into targets.
        """
        loss = self.feature_loss
        assert loss is not None
        targets, losses = unwrap_model(self.trainable_module).targets, []
        with torch.autocast(maps[0].device.type, enabled=False):
            for student_map, teacher_map, target in zip(maps, teacher_maps, targets, strict=True):
                teacher_map = target(teacher_map)
                if not loss.any_width:
                    if self.pool_wider and student_map.shape[1] > teacher_map.shape[1]:
                        student_map = pool_channels(student_map, teacher_map.shape[1])
                    teacher_map = feature_target(teacher_map, student_map)
                losses.append(loss.function(student_map, teacher_map))
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def _channels(model: nn.Module, block: str) -> int:
    return int(model.feature_info[block_index(model, block)]["num_chs"])  # type: ignore[index]


def create_task(
    student: nn.Module,
    teacher: FrozenTeacher | None,
    objective: Objective,
    *,
    label_smoothing: float,
    device: torch.device,
    seed: int = 0,
) -> TrainingTask:
    """Make the timm training task of an objective; the student's parameters are trained, and those of its projectors.

    Args:
        student: the model to train, on `device`.
        teacher: the model to distil from, on `device`; None to train on the labels alone.
        objective: a section of params.
        label_smoothing: of the cross-entropy.
        device: of both models.
        seed: of the projectors' initialisation.
    """
    if teacher is None or not objective.distils:
        return labels_task(student, label_smoothing, device)
    smoothing = {"smoothing": label_smoothing}
    return MapDistillationTask(
        student, teacher, objective, device=device, seed=seed, criterion_kwargs=smoothing, verbose=False
    )
