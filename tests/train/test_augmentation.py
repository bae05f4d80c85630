"""timm's augmentation policies: what params take is what timm takes, and every operation runs at every magnitude."""

import copy

import numpy as np
import pytest
import yaml
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import NAME_TO_OP, AugmentOp

from stages.core.base.errors import UserError
from stages.core.config import params
from stages.core.train.batches import posterize
from stages.tools.compose import composed

POLICIES = [
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m9-n3-mstd0.5",
    "rand-m10-n14-p0.3-mstd101-mmax20-inc1-tweights",
    "rand-mstd1-t3aw-n14",
    "rand-t3a-p1",
    "augmix",
    "augmix-m5-w4-d2",
    "augmix-m10-w3-d0-a0.5-b1-mstd0.5",
    "original",
    "original-mstd0.5",
    "originalr",
    "v0",
    "v0r-mstd1",
    "3a",
]


@pytest.fixture
def load(tmp_path):
    """Load the default with another policy."""
    given = yaml.safe_load(composed())

    def load_changed(policy):
        changed = copy.deepcopy(given)
        changed["recipe"]["augment"] |= {"on_device": False, "auto_augment": policy}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
        return params.load(tmp_path / "params.yaml").recipe.augment.auto_augment

    return load_changed


@pytest.fixture
def image(rng):
    return Image.fromarray(rng.integers(0, 256, size=(40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_of_timm_are_taken_and_augment(policy, load, image):
    assert load(policy) == policy
    transform = create_transform((3, 32, 32), is_training=True, auto_augment=policy, interpolation="bicubic")
    for _ in range(20):
        assert transform(image).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("", "must begin with one of timm's policies, rand, augmix, original"),
        ("bogus", "must begin with one of timm's policies, rand, augmix, original"),
        ("randaug", "must begin with one of timm's policies"),
        ("v1", "must begin with one of timm's policies"),
        ("RAND-m9", "must begin with one of timm's policies"),
        ("rand-m9-foo", "'foo' is not a section of timm's rand; its sections are as in rand-m9-"),
        ("rand-m9-", "'' is not a section of timm's rand"),
        ("rand-9", "'9' is not a section"),
        ("rand-m9.5", "'m9.5' is not a section"),
        ("rand-mstdinf", "'mstdinf' is not a section"),
        ("rand-tweight", "'tweight' is not a section"),
        ("rand-n15-tweights", "'n15' is not a section"),
        ("rand-n0", "'n0' is not a section"),
        ("rand-m9\n", "is not a section"),
        ("rand-m9-m5", "has the same section twice"),
        ("augmix-m5-w0", "'w0' is not a section of timm's augmix"),
        ("augmix-a0", "'a0' is not a section of timm's augmix"),
        ("augmix-n3", "'n3' is not a section of timm's augmix"),
        ("original-m9", "'m9' is not a section of timm's original"),
    ],
)
def test_policies_that_timm_does_not_know_are_refused(policy, reason, load):
    with pytest.raises(UserError, match=r"recipe\.augment\.auto_augment: ") as caught:
        load(policy)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAME_TO_OP)
def test_every_operation_runs_at_every_magnitude(name, image):
    for magnitude in (0, 1, 5, 9.9, 10, 20, 30):
        hparams = {"magnitude_max": 30, "translate_const": 14, "img_mean": (124, 116, 104)}
        assert AugmentOp(name, prob=1, magnitude=magnitude, hparams=hparams)(image).size == image.size


@pytest.mark.parametrize("bits", [-2, 0, 1, 4, 7, 8])
def test_posterize_keeps_the_highest_bits(bits, image):
    kept = sum(2**bit for bit in range(8 - bits, 8)) if bits > 0 else 0
    np.testing.assert_array_equal(np.asarray(posterize(image, bits)), np.asarray(image) & kept)
