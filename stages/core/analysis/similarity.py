"""How near one set of token vectors is to another: linear CKA, and what a fixed linear projector leaves over."""

from dataclasses import dataclass

import numpy as np

from stages.core.base.errors import UserError
from stages.core.features.store import chunks

# Of squared singular values against the largest. Tokens are float32: a direction below 1e-6 of the largest is their
# rounding, and least squares must not read a teacher out of it.
RESOLUTION = 1e-12


@dataclass(frozen=True)
class Similarity:
    """How near a student's tokens S are to a teacher's tokens T.

    Attributes:
        cka: linear CKA, from 0 to 1; blind to rotation, to one common scale, and to the mean.
        probe_error: min over W of ‖S W − T‖² / ‖T‖², the relative error of the best fixed linear projector, fitted
            and measured on these tokens. S W has at most the rank of S, so that by Eckart–Young it is no smaller than
            the share of T's energy beyond that many principal directions.
    """

    cka: float
    probe_error: float


def similarity(student: np.ndarray, teacher: np.ndarray) -> Similarity:
    """Compare two sets of tokens in one pass, through their second moments.

    Args:
        student: [images, tokens, student channels].
        teacher: [images, tokens, teacher channels].

    Raises:
        UserError: the images or tokens differ in number, or a feature is not finite.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise UserError(f"{student.shape[:2]} and {teacher.shape[:2]} images and tokens cannot be compared")
    width, count = student.shape[2], student.shape[0] * student.shape[1]
    total = np.zeros(width + teacher.shape[2])
    moment = np.zeros((len(total), len(total)))
    for both in chunks(np.concatenate([student, teacher], axis=2)):
        flat = both.reshape(-1, len(total))
        total += flat.sum(axis=0)
        moment += flat.T @ flat
    return Similarity(cka=_cka(moment - np.outer(total, total) / count, width), probe_error=_left_by(moment, width))


def _cka(centred: np.ndarray, width: int) -> float:
    """‖SᵀT‖² / (‖SᵀS‖ ‖TᵀT‖) from the joint second moment of centred S (`width` channels) and T."""
    own, cross, other = centred[:width, :width], centred[:width, width:], centred[width:, width:]
    norms = np.linalg.norm(own) * np.linalg.norm(other)
    return float(np.square(cross).sum() / norms) if norms > 0 else 0.0


def _left_by(moment: np.ndarray, width: int) -> float:
    """The share of T's energy that no linear map of S reaches, from the joint second moment of S and T."""
    energy = moment[width:, width:].trace()
    values, vectors = np.linalg.eigh(moment[:width, :width])
    kept = values > max(values[-1], 0.0) * RESOLUTION
    if energy == 0:
        return 0.0
    reached = np.square(vectors[:, kept].T @ moment[:width, width:]).sum(axis=1) / values[kept]
    return float(max(0.0, 1 - reached.sum() / energy))
