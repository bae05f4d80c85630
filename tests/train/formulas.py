"""The feature losses by their formulas, in numpy and float64, on maps [images, channels, rows, columns]."""

import numpy as np
from scipy.special import expit, log_softmax


def tokens(token_map):
    """[images, tokens, channels] in float64."""
    images, channels = token_map.shape[:2]
    return token_map.double().numpy().reshape(images, channels, -1).transpose(0, 2, 1)


def standardised(values, axes):
    return (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + 1e-5)


def cosines(values):
    unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return np.einsum("itc,iuc->itu", unit, unit)


def spectral(student, teacher):
    difference = np.fft.rfft2((student - teacher).double().numpy(), norm="ortho")
    return np.mean(np.stack([difference.real, difference.imag]) ** 2)


def pooled_smooth_l1(student, teacher):
    distance = np.abs(tokens(student).mean(1) - standardised(tokens(teacher).mean(1), -1))
    return np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()


def l1_cosine(student, teacher):
    s, t = tokens(student), tokens(teacher)
    cosine = (s * t).sum(-1) / (np.linalg.norm(s, axis=-1) * np.linalg.norm(t, axis=-1))
    return np.abs(s - t).mean() - np.log(expit(cosine)).mean()


def relation(student, teacher):
    s, t = (log_softmax(cosines(tokens(one)) / 0.07, axis=-1) for one in (student, teacher))
    return (np.exp(t) * (t - s)).sum(-1).mean()


FORMULAS = {
    "mse": lambda student, teacher: ((tokens(student) - tokens(teacher)) ** 2).mean(),
    "spectral": spectral,
    "normalized_mse": lambda student, teacher: ((tokens(student) - standardised(tokens(teacher), -1)) ** 2).mean(),
    "batch_normalized_mse": lambda student, teacher: (
        (standardised(tokens(student), (0, 1)) - standardised(tokens(teacher), (0, 1))) ** 2
    ).mean(),
    "pooled_smooth_l1": pooled_smooth_l1,
    "l1_cosine": l1_cosine,
    "gram": lambda student, teacher: ((cosines(tokens(student)) - cosines(tokens(teacher))) ** 2).mean(),
    "relation": relation,
}
