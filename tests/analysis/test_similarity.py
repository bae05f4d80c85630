import numpy as np
import pytest

from stages.core.analysis.energy import floors
from stages.core.analysis.pca import shared_basis
from stages.core.analysis.similarity import similarity
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


@pytest.mark.parametrize("width", [1, 5, 12, 23])
@pytest.mark.parametrize(
    "kind",
    ["random", "linear", "relu", "bent", "principal", "principal, rotated", "principal, noisy", "copied"],
)
def test_the_floor_is_never_beaten_by_least_squares(rng, features, kind, width):
    tokens = student(rng, features, kind, width)
    flat, target = tokens.reshape(-1, width), features.reshape(-1, 24).astype(np.float64)
    solved = flat @ np.linalg.lstsq(flat, target, rcond=None)[0]
    error = np.square(solved - target).sum() / np.square(target).sum()
    floor = floors(shared_basis(features).eigenvalues, np.ones(1))[0, width - 1]
    assert error >= floor - 1e-13
    found = similarity(tokens, features).probe_error
    assert found >= floor - 1e-13
    assert found == pytest.approx(error, abs=1e-12)
    if kind in ("principal", "principal, rotated"):
        assert found == pytest.approx(floor, abs=1e-12)


def test_a_float32_copy_of_rank_4_does_not_beat_the_floor_of_rank_4(rng, features):
    narrow = student(rng, features, "linear", 4)
    lifted = (narrow @ rng.normal(size=(4, 20))).astype(np.float32)  # whose rounding has full rank
    assert similarity(lifted, features).probe_error == pytest.approx(similarity(narrow, features).probe_error, abs=1e-9)


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
