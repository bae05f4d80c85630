"""Students on the validation images beside their teacher: accuracy, and the distance of their features."""

from collections.abc import Iterable, Sequence

import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import Tensor, nn

from stages.core.losses.targets import feature_target, has_target
from stages.core.models.maps import forward_with_map
from stages.core.models.normalization import renormalization
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import FinalEvaluation, on_device


@torch.no_grad()
def evaluate_against_teacher(
    students: Sequence[nn.Module], teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World
) -> list[FinalEvaluation]:
    """Accuracy, predictions and the relative feature error ‖S - T‖² / ‖T‖², in one pass of the teacher.

    S is a student's last-block map, T the teacher's at the student's width (see `feature_target`); both norms are
    summed over the validation images of all processes. The error is None for a student that is wider than its teacher
    or has another grid.

    Args:
        students: they take images normalised alike.
        teacher: a timm model on the same device.
        batches: of this process: images [images, 3, height, width], normalised for the students, and labels.
        world: the processes that evaluate together.
    """
    renormalize = renormalization(students[0], teacher, world.device)
    compared = [_Compared(student.eval(), world) for student in students]
    for images, labels in on_device(batches, world.device):
        _, teacher_map = forward_with_map(teacher, renormalize(images))
        for student in compared:
            student.update(images, labels, teacher_map)
    return [student.result() for student in compared]


class _Compared:
    """A student beside its teacher, batch by batch."""

    def __init__(self, student: nn.Module, world: World) -> None:
        self.student, self.world = student, world
        self.evaluator = ClassificationEvaluator(world.device)
        self.predictions: list[Tensor] = []
        self.sums: list[Tensor] = []

    def update(self, images: Tensor, labels: Tensor, teacher_map: Tensor) -> None:
        logits, student_map = forward_with_map(self.student, images)
        if has_target(teacher_map, student_map):
            target = feature_target(teacher_map, student_map).double()
            error = (student_map.double() - target).square()
            self.sums.append(torch.stack([error.sum((1, 2, 3)), target.square().sum((1, 2, 3))], dim=1))
        self.predictions.append(logits.argmax(1))
        self.evaluator.update(logits, labels)

    def result(self) -> FinalEvaluation:
        relative = None
        if self.sums:
            error, energy = self.world.gather(torch.cat(self.sums)).sum(0)
            relative = (error / energy).item()
        accuracy = self.evaluator.compute(distributed=self.world.size > 1)
        return FinalEvaluation(
            metrics={**accuracy, "relative_feature_error": relative},
            predictions=self.world.gather(torch.cat(self.predictions)).cpu().numpy(),
        )
