import numpy as np
import pytest

from stages.core.analysis.dims import floor
from stages.core.analysis.linear_probe import similarity
from stages.core.analysis.pca import shared_basis
from stages.core.base.errors import UserError
from stages.core.features import store


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def student(rng, features, kind, width):
    """Tokens of a student `width` channels wide, which knows the teacher more or less well."""
    flat = features.reshape(-1, features.shape[2]).astype(np.float64)
    mixed = flat @ rng.normal(size=(flat.shape[1], width))
    best = flat @ shared_basis(features).basis[:, :width]
    tokens = {
        "random": rng.normal(size=mixed.shape),
        "linear": mixed,
        "relu": np.maximum(mixed, 0),
        "bent": np.tanh(mixed / mixed.std()),
        "principal": best,
        "principal, rotated": best @ rotation(rng, width) * 7,
        "principal, noisy": best + 0.01 * rng.normal(size=mixed.shape) * best.std(),
        "copied": flat[:, :width],
    }[kind]
    return tokens.reshape(*features.shape[:2], width)


def plain_errors(student, teacher):
    """The error of least squares fitted and measured on all images, and of that fitted on one half for the other."""

    def left(fit, measured):
        solution = np.linalg.lstsq(flat(student[fit]), flat(teacher[fit]), rcond=1e-6)[0]
        return np.square(flat(student[measured]) @ solution - flat(teacher[measured])).sum()

    def flat(tokens):
        return tokens.reshape(-1, tokens.shape[2]).astype(np.float64)

    everything, even, odd = slice(None), slice(0, None, 2), slice(1, None, 2)
    energy = np.square(teacher.astype(np.float64)).sum()
    return left(everything, everything) / energy, (left(even, odd) + left(odd, even)) / energy


KINDS = ["random", "linear", "relu", "bent", "principal", "principal, rotated", "principal, noisy", "copied"]


@pytest.mark.parametrize("width", [1, 5, 12, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_least_squares_on_the_other_half_of_the_images(rng, features, kind, width):
    tokens = student(rng, features, kind, width)
    in_sample, held_out = plain_errors(tokens, features)
    assert similarity(tokens, features).probe_error == pytest.approx(held_out, rel=1e-6, abs=1e-12)
    # Each is a bound of the next: Eckart and Young's floor, the fit on all images, the fit on other images.
    least = floor(shared_basis(features).eigenvalues, 24)[width - 1]
    assert least - 1e-13 <= in_sample <= held_out + 1e-13


def test_a_teacher_within_reach_of_a_linear_map_leaves_no_error(rng, features):
    narrow = student(rng, features, "bent", 5)
    teacher = narrow @ rng.normal(size=(5, 24))
    assert similarity(narrow, teacher).probe_error < 1e-20
    assert similarity(student(rng, features, "linear", 24), features).probe_error < 1e-15


@pytest.mark.parametrize("width", [8, 40, 96])
def test_a_wide_student_that_knows_nothing_of_the_teacher_does_not_look_better_than_none(rng, width):
    teacher, tokens = rng.normal(size=(100, 16, 24)), rng.normal(size=(100, 16, width))
    in_sample, held_out = plain_errors(tokens, teacher)
    assert in_sample == pytest.approx(1 - width / 1600, abs=0.01)  # what the width alone seems to explain
    found = similarity(tokens, teacher).probe_error
    assert found == pytest.approx(held_out, rel=1e-9)
    assert found == pytest.approx(1 + width / (800 - width - 1), abs=0.01) and found > 1


def test_one_image_has_no_other_half(features):
    with pytest.raises(UserError, match="one half of the images"):
        similarity(features[:1], features[:1])


def test_the_rounding_of_a_float32_copy_of_rank_4_does_not_predict_the_teacher(rng, features):
    narrow = student(rng, features, "linear", 4)
    lifted = (narrow @ rng.normal(size=(4, 20))).astype(np.float32)  # whose rounding has full rank
    assert similarity(lifted, features).probe_error == pytest.approx(similarity(narrow, features).probe_error, abs=1e-6)


def test_cka_equals_its_form_on_gram_matrices_of_tokens(rng, features):
    tokens = student(rng, features, "bent", 7)
    count = features.shape[0] * features.shape[1]
    centring = np.eye(count) - 1 / count
    own, other = (
        centring @ (flat @ flat.T) @ centring
        for flat in (tokens.reshape(count, -1), features.reshape(count, -1).astype(np.float64))
    )
    expected = np.sum(own * other) / np.sqrt(np.sum(own * own) * np.sum(other * other))
    assert similarity(tokens, features).cka == pytest.approx(expected, rel=1e-10)


def test_cka_passes_over_rotation_scale_and_mean(rng, features):
    tokens = student(rng, features, "relu", 9)
    moved = 3 * tokens @ rotation(rng, 9) + rng.normal(size=9)
    assert similarity(moved, features).cka == pytest.approx(similarity(tokens, features).cka, rel=1e-10)
    assert similarity(features @ rotation(rng, 24), features).cka == pytest.approx(1, rel=1e-10)


def test_the_other_way_round_cka_is_the_same(rng, features):
    tokens = student(rng, features, "bent", 7)
    assert similarity(tokens, features).cka == pytest.approx(similarity(features, tokens).cka, rel=1e-12)


def test_chunks_change_nothing(rng, features, monkeypatch):
    tokens = student(rng, features, "bent", 7)
    whole = similarity(tokens, features)
    monkeypatch.setattr(store, "CHUNK_BYTES", 1)
    in_parts = similarity(tokens, features)
    assert (in_parts.cka, in_parts.probe_error) == pytest.approx((whole.cka, whole.probe_error), rel=1e-10)


def test_a_silent_student_has_no_similarity(features):
    found = similarity(np.zeros_like(features[..., :3]), features)
    assert (found.cka, found.probe_error) == (0, 1)


def test_other_images_are_refused(features):
    with pytest.raises(UserError, match="cannot be compared"):
        similarity(features[1:], features)


def test_every_leading_direction_counts_alike(rng, features):
    tokens = student(rng, features, "principal, noisy", 5)

    def flat(of, half):
        return of[half].reshape(-1, of.shape[2]).astype(np.float64)

    everything = flat(features, slice(None))
    energies, directions = np.linalg.eigh(everything.T @ everything)
    left = np.zeros(len(energies))
    for fit, measured in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        pairs = [
            (one[fit].reshape(-1, one.shape[2]), one[measured].reshape(-1, one.shape[2])) for one in (tokens, features)
        ]
        solution = np.linalg.lstsq(pairs[0][0], pairs[1][0], rcond=1e-6)[0]
        left += (((pairs[0][1] @ solution - pairs[1][1]) @ directions) ** 2).sum(0)
    count = int(np.searchsorted(np.cumsum(energies[::-1]) / energies.sum(), 0.99)) + 1
    expected = np.minimum(left[::-1][:count] / energies[::-1][:count], 1).mean()
    assert similarity(tokens, features).probe_equal == pytest.approx(expected, rel=1e-5)
