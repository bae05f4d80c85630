"""Images that stay on the device: the same for any division, and what is done to each is what torchvision does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2 import functional as by_hand

from stages.core.base.errors import UserError
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList
from stages.core.runtime.distributed import World
from stages.core.train.device_augmentation import COLUMNS, Draws, ResidentBatches, crop, erase, recolour
from stages.core.train.sampler import EpochSampler
from tests.sections import make_augment

CPU = torch.device("cpu")
PLAIN = {
    "on_device": True,
    "scale": [1.0, 1.0],
    "ratio": [1.0, 1.0],
    "hflip": 0.0,
    "color_jitter": 0.0,
    "auto_augment": None,
    "random_erasing": 0.0,
    "interpolation": "bilinear",
}
FULL = PLAIN | {"padding": 2, "scale": [0.3, 1.0], "ratio": [0.7, 1.4], "hflip": 0.5}
FULL |= {"color_jitter": 0.4, "random_erasing": 0.5}


@pytest.fixture
def listed(tmp_path, make_split):
    """36 grey images of three classes."""
    split = scan(make_split(tmp_path / "train", images=12))
    return ImageList(tmp_path / "train", list(split.files), split.labels())


@pytest.fixture
def make(listed, make_student):
    def made(*, augment=FULL, rank=0, size=1, seed=0, repeats=1, **options):
        world = World(rank, size, CPU)
        sampler = EpochSampler(len(listed.files), seed, batch=12, world=world, repeats=repeats, **options)
        return ResidentBatches(listed, make_student("baseline"), sampler, augment=make_augment(**augment), workers=0)

    return made


@pytest.fixture
def draws():
    return Draws(torch.rand(64, len(COLUMNS), generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def coloured():
    return torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def joined(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def augment(**changes):
    return make_augment(**{**PLAIN, **changes})


def test_every_image_stands_once_in_an_epoch_with_its_label(make, listed):
    batches = make(augment=PLAIN)
    images, labels = joined(batches.epoch(0))
    pixels = (images * batches.std + batches.mean).round().to(torch.uint8)
    wanted = {}
    for name, label in zip(listed.files, listed.labels, strict=True):
        wanted[np.asarray(Image.open(listed.folder / name).convert("RGB")).tobytes()] = label
    found = {
        image.permute(1, 2, 0).contiguous().numpy().tobytes(): label
        for image, label in zip(pixels, labels.tolist(), strict=True)
    }
    assert batches.sampler.steps == 3 and found == wanted


def test_epochs_and_seeds_differ_and_equal_ones_do_not(make):
    first = joined(make().epoch(1))
    again = make()
    list(again.epoch(0))
    torch.testing.assert_close(joined(again.epoch(1)), first, rtol=0, atol=0)
    for other in (make().epoch(2), make(seed=1).epoch(1)):
        assert not torch.equal(joined(other)[0], first[0])


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(("size", "device_batch"), [(1, 5), (2, None), (2, 3), (4, 1)])
def test_processes_and_micro_batches_change_nothing(make, size, device_batch, repeats):
    whole = list(make(repeats=repeats).epoch(3))
    ranks = [make(rank=rank, size=size, device_batch=device_batch, repeats=repeats) for rank in range(size)]
    count = ranks[0].sampler.micro_batches
    assert count * size * ranks[0].sampler.micro_batch == 12
    shares = [list(rank.epoch(3)) for rank in ranks]
    for number, batch in enumerate(whole):
        parts = [part for share in shares for part in share[number * count : (number + 1) * count]]
        torch.testing.assert_close(joined(parts), batch, rtol=0, atol=1e-5)


def test_an_epoch_goes_on_from_any_batch(make):
    whole, rest = list(make(device_batch=6).epoch(2)), list(make(device_batch=6).epoch(2, 1))
    assert len(whole) == 6
    torch.testing.assert_close(rest, whole[2:], rtol=0, atol=0)


def test_repeats_of_an_image_are_augmented_anew(make):
    images, labels = next(iter(make(repeats=3).epoch(0)))
    assert torch.equal(labels[0::3], labels[1::3])
    assert len(torch.unique(images.flatten(1), dim=0)) == 12


def test_drawing_leaves_the_models_random_state_alone(make):
    batches = make()
    before = torch.get_rng_state()
    list(batches.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_whole_crop_of_a_padded_image_is_a_slice(coloured, draws, flip):
    found = crop(augment(padding=2, hflip=flip), coloured, draws)
    padded = F.pad(coloured, (2, 2, 2, 2))
    seen = set()
    for image, top, left, cropped in zip(padded, draws["top"], draws["left"], found, strict=True):
        row, column = int(top * 5), int(left * 5)
        seen.add((row, column))
        expected = image[:, row : row + 8, column : column + 8].float()
        torch.testing.assert_close(cropped, expected.flip(2) if flip else expected, rtol=0, atol=1e-2)
    assert len(seen) > 15


def test_a_part_is_resized_as_torchvision_does(coloured, draws):
    found = crop(augment(scale=[0.2, 0.6], ratio=[0.6, 1.6]), coloured, draws)
    boxes = set()
    for index, image in enumerate(coloured):
        area, logarithm = (0.2 + 0.4 * draws["area"][index]) * 64, np.log(0.6)
        ratio = np.exp(logarithm + (np.log(1.6) - logarithm) * float(draws["ratio"][index]))
        height, width = (min(8, round(float(side))) for side in ((area / ratio) ** 0.5, (area * ratio) ** 0.5))
        top = int(draws["top"][index] * (8 - height + 1))
        left = int(draws["left"][index] * (8 - width + 1))
        boxes.add((height, width))
        expected = by_hand.resized_crop(image.float(), top, left, height, width, [8, 8], antialias=False)
        torch.testing.assert_close(found[index], expected, rtol=0, atol=0.05)
    assert len(boxes) > 5


def test_colour_is_torchvisions(coloured, draws):
    found = recolour(augment(color_jitter=0.5), coloured.float(), draws) / 255
    for index, image in enumerate(coloured):
        expected = image.float() / 255
        for adjust, purpose in (
            (by_hand.adjust_brightness, "brightness"),
            (by_hand.adjust_contrast, "contrast"),
            (by_hand.adjust_saturation, "saturation"),
        ):
            expected = adjust(expected, 0.5 + float(draws[purpose][index]))
        torch.testing.assert_close(found[index], expected, rtol=0, atol=2e-3)


def test_erasing_fills_one_box_of_a_share_of_the_images(draws):
    images = torch.full((64, 3, 32, 32), 9.0)
    noise = torch.randn(2**16, generator=torch.Generator().manual_seed(1))
    erased = erase(augment(random_erasing=0.4), images, draws, noise) != 9
    assert torch.equal(erased.flatten(1).any(1), draws["erase"] < 0.4)
    shares = []
    for image in erased[draws["erase"] < 0.4]:
        rows, columns = image.any(0).any(1).nonzero().squeeze(1), image.any(0).any(0).nonzero().squeeze(1)
        box = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all() and box.sum() == image.sum()
        shares.append(box[0].numel() / 32**2)
    assert min(shares) > 0.01 and max(shares) < 0.36 and max(shares) > 0.2


def test_noise_is_normal_and_of_each_image_its_own(make):
    batches = make(augment=PLAIN | {"random_erasing": 1.0})
    plain = make(augment=PLAIN)
    changed = []
    for epoch in range(40):
        erased, whole = (joined(of.epoch(epoch))[0] for of in (batches, plain))
        changed.append(erased[erased != whole])
    changed = torch.cat(changed)
    assert abs(changed.mean()) < 0.05 and abs(changed.std() - 1) < 0.05


def test_an_image_of_another_size_is_named(listed, make):
    Image.new("RGB", (8, 9)).save(listed.folder / listed.files[3])
    with pytest.raises(UserError, match=r"ant/003.png is 8×9, .* must be 8×8; .*on_device: false"):
        make()


def test_too_few_images_and_too_many_processes_are_refused(make):
    with pytest.raises(UserError, match="cannot be shared evenly by 5 processes"):
        make(size=5)
