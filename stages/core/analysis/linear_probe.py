"""How similar two sets of token vectors are: linear CKA, and the error of the best fixed linear projector."""

from dataclasses import dataclass

import numpy as np

from stages.core.analysis.dims import dims, shares
from stages.core.base.errors import UserError
from stages.core.features.store import chunks

# Relative to the largest squared singular value. Tokens are float32: a direction below 1e-6 of the largest singular
# value is rounding noise, from which least squares must not predict a teacher.
RESOLUTION = 1e-12
COUNTED = 99  # percent of the energy: the leading directions that hold it are those that are counted alike
FOLDS = 2  # halves of the images: every second image, and the others


@dataclass(frozen=True)
class Similarity:
    """How similar a student's tokens S are to a teacher's tokens T.

    Attributes:
        cka: linear CKA, from 0 to 1; invariant to rotation, to one common scale, and to the mean.
        probe_error: ‖S W − T‖² / ‖T‖² of the best fixed linear projector W on images that it was not fitted on. See
            `probe_errors`.
        probe_equal: the mean over T's leading directions (`counted`) of that error along each, at most 1: every one of
            them counts alike, however much energy it has.
    """

    cka: float
    probe_error: float
    probe_equal: float


def similarity(student: np.ndarray, teacher: np.ndarray) -> Similarity:
    """Compare two sets of tokens of the same images.

    Args:
        student: [images, tokens, student channels].
        teacher: [images, tokens, teacher channels].

    Raises:
        UserError: the images or tokens differ in number, there are fewer than two images, or a feature is not finite.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise UserError(f"{student.shape[:2]} and {teacher.shape[:2]} images and tokens cannot be compared")
    if len(student) < FOLDS:
        raise UserError(f"a projector is fitted on one half of the images: {len(student)} image has none")
    width, both = student.shape[2], np.concatenate([student, teacher], axis=2)
    halves = [both[fold::FOLDS] for fold in range(FOLDS)]
    sums, moments = zip(*(_sum_and_moment(half) for half in halves), strict=True)
    total, count = np.sum(sums, axis=0), student.shape[0] * student.shape[1]
    centred = np.sum(moments, axis=0) - np.outer(total, total) / count
    return Similarity(_cka(centred, width), *probe_errors(halves, moments, width))


def probe_errors(halves: list[np.ndarray], moments: tuple[np.ndarray, ...], width: int) -> tuple[float, float]:
    """The relative error of linear projectors on images that they were not fitted on, by two-fold cross-validation.

    The projector for one half of the images is fitted by least squares (without a bias, of minimum norm) on the other
    half; the squared errors of both halves together are divided by the teacher's energy in both. The halves are every
    second image of the sample and the others. The sample is sorted by class: with several images per class each class
    is in both halves, with one image per class the halves hold different classes.

    An error on the very images of the fit falls with every channel of the student, related or not: by width / tokens
    for a student that has nothing to do with the teacher. This error does not; such a student has an error of about
    1 + width / (tokens of a half − width − 1), slightly above 1, the error of predicting zero.

    The error is never below that of one projector fitted and measured on all images, because the residual of a
    held-out half is (1 − H)⁻¹ times its residual in the fit on all images, with H its part of the hat matrix. So it is
    never below the share of T's energy beyond rank(S) principal directions either (Eckart–Young).

    Args:
        halves: the tokens of student and teacher side by side, [images, tokens, width + teacher channels] each.
        moments: of each half, Σ over its tokens, [width + teacher channels, width + teacher channels].
        width: of the student, in channels.

    Returns:
        From 0; 0 where the teacher has no energy, 1 where the student has none. And the mean over the teacher's
        principal directions, of the leading ones that hold `COUNTED` percent of the energy, of the error along each,
        at most 1.
    """
    error = 0.0
    energies, directions = np.linalg.eigh(np.sum(moments, axis=0)[width:, width:])
    count = counted(energies[::-1])
    energies, directions = energies[::-1][:count], directions[:, ::-1][:, :count]
    along = np.zeros(count)
    for fold, half in enumerate(halves):
        projector = _least_squares(np.sum([m for other, m in enumerate(moments) if other != fold], axis=0), width)
        for chunk in chunks(half):
            flat = chunk.reshape(-1, chunk.shape[2])
            left = flat[:, :width] @ projector - flat[:, width:]
            error += np.square(left).sum()
            along += np.square(left @ directions).sum(axis=0)
    energy = sum(moment[width:, width:].trace() for moment in moments)
    if not energy > 0:
        return 0.0, 0.0
    return float(error / energy), float(np.minimum(along / energies, 1).mean())


def counted(energies: np.ndarray) -> int:
    """How many of a target's directions are counted alike: the leading ones that hold `COUNTED` percent of the energy.

    Args:
        energies: along all directions, from the largest, [channels].
    """
    return int(dims(shares(energies.clip(min=0)), [COUNTED])[0])


def _sum_and_moment(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ x [channels] and Σ x xᵀ [channels, channels] over all tokens."""
    channels = tokens.shape[2]
    total, moment = np.zeros(channels), np.zeros((channels, channels))
    for chunk in chunks(tokens):
        flat = chunk.reshape(-1, channels)
        total += flat.sum(axis=0)
        moment += flat.T @ flat
    return total, moment


def _cka(centred: np.ndarray, width: int) -> float:
    """‖SᵀT‖² / (‖SᵀS‖ ‖TᵀT‖) from the joint second moment of centred S (`width` channels) and T."""
    own, cross, other = centred[:width, :width], centred[:width, width:], centred[width:, width:]
    norms = np.linalg.norm(own) * np.linalg.norm(other)
    return float(np.square(cross).sum() / norms) if norms > 0 else 0.0


def _least_squares(moment: np.ndarray, width: int) -> np.ndarray:
    """W of minimum norm that minimises ‖S W − T‖², [width, teacher channels], from the joint second moment."""
    values, vectors = np.linalg.eigh(moment[:width, :width])
    kept = values > max(values[-1], 0.0) * RESOLUTION
    axes = vectors[:, kept]
    return axes @ ((axes.T @ moment[:width, width:]) / values[kept, None])
