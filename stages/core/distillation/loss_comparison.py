"""Distances between a student's and its teacher's maps, by each feature loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.losses import mse, spectral
from stages.core.losses.targets import feature_target

CHUNK = 64  # images at a time; affects memory, not results


def relative_error(student_maps: Tensor, teacher_maps: Tensor) -> float:
    """‖S − T‖² / ‖T‖² summed over all images, with T the teacher's map at the student's width.

    Raises:
        UserError: the maps cannot be compared.
    """
    error = energy = 0.0
    for student, teacher in zip(student_maps.split(CHUNK), teacher_maps.split(CHUNK), strict=True):
        target = feature_target(teacher, student).double()
        error += (student.double() - target).square().sum().item()
        energy += target.square().sum().item()
    return error / energy


@dataclass(frozen=True)
class SpectralAgainstMse:
    """The two feature losses on the same maps.

    Attributes:
        ratio: spectral loss / mse loss.
        gradient_cosine: of their gradients with respect to the student's map, over all images.
    """

    ratio: float
    gradient_cosine: float


def ratio_bounds(rows: int, columns: int) -> tuple[float, float]:
    """Lower and upper bound of spectral loss / mse loss for any maps on a grid.

    By Parseval's theorem the squares of all rows × columns frequencies have the same sum as those of the values. rfft2
    keeps columns // 2 + 1 of the columns of frequencies, and its mean divides by two numbers for each, real and
    imaginary. The upper bound is reached if all of the difference is in columns that are their own mirror image, the
    lower one if all of it is in the other columns, which rfft2 keeps once and the full spectrum has twice.
    """
    upper = columns / (2 * (columns // 2 + 1))
    return (upper / 2 if columns > 2 else upper), upper


def spectral_against_mse(student_maps: Tensor, teacher_maps: Tensor) -> SpectralAgainstMse:
    """Compare both losses, and their gradients, over all images.

    Args:
        student_maps: [images, student channels, rows, columns], not equal to the teacher's.
        teacher_maps: [images, teacher channels, rows, columns]; pooled to the student's width if that is
            narrower, as in training.

    Raises:
        UserError: the maps cannot be compared.
    """
    losses = torch.zeros(2, dtype=torch.float64)
    products = torch.zeros(2, 2, dtype=torch.float64)  # inner products of the two gradients
    for student, teacher in zip(student_maps.split(CHUNK), teacher_maps.split(CHUNK), strict=True):
        tracked = student.detach().clone().requires_grad_()
        target = feature_target(teacher, tracked)
        # Both are means over the images of a chunk; multiplied by their number, they add up over chunks.
        values = [len(student) * compared.loss(tracked, target) for compared in (spectral, mse)]
        gradients = torch.stack([torch.autograd.grad(value, tracked)[0].flatten().double() for value in values])
        losses += torch.stack(values).detach()
        products += gradients @ gradients.T
    return SpectralAgainstMse(
        ratio=(losses[0] / losses[1]).item(),
        gradient_cosine=(products[0, 1] / products.diagonal().prod().sqrt()).item(),
    )
