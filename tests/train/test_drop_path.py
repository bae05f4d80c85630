"""Drop path: timm's, with masks that depend neither on processes nor on micro-batches nor on compilation."""

import copy

import pytest
import torch
from timm.layers import DropPath
from torch._dynamo.testing import CompileCounter

from stages.core.models.blocks import DROP_PATH_CALLS
from stages.core.runtime.distributed import World
from stages.core.train.drop_path import DropPathMasks, KeyedDropPath
from stages.core.train.sampler import EpochSampler

CPU = torch.device("cpu")
BATCH = 12


def sampler(batch=BATCH, rank=0, size=1, device_batch=None):
    return EpochSampler(4096, 0, batch=batch, world=World(rank, size, CPU), device_batch=device_batch)


@pytest.fixture(params=["widen", "lift", "cait"])
def model(request, make_student, make_teacher):
    """A small model with drop path, in training mode, in which every block counts."""
    options = {"drop_path_rate": 0.4}
    made = make_teacher(**options) if request.param == "cait" else make_student(request.param, **options)
    return made.train()


@pytest.fixture
def images():
    return torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "device_batch"), [(1, 4), (2, None), (2, 2), (3, 1)])
def test_processes_and_micro_batches_change_nothing(model, images, size, device_batch):
    whole = DropPathMasks(model, sampler(), seed=3)
    whole.set(5, 0)
    expected = model(images)
    found = []
    for rank in range(size):
        own = sampler(rank=rank, size=size, device_batch=device_batch)
        masks = DropPathMasks(model, own, seed=3)
        for number, part in enumerate(images[own.part.start : own.part.stop].split(own.micro_batch)):
            masks.set(5, number)
            found.append(model(part))
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-5)


def test_seeds_and_steps_differ_and_equal_ones_do_not(model, images):
    def output(seed, step):
        masks = DropPathMasks(model, sampler(), seed)
        masks.set(step, 0)
        return model(images)

    assert torch.equal(output(0, 1), output(0, 1))
    for other in ((0, 2), (1, 1)):
        assert not torch.allclose(output(*other), output(0, 1))


def test_outside_training_nothing_is_dropped_and_the_random_state_stays(model, images):
    plain = copy.deepcopy(model).eval()(images)
    before = torch.get_rng_state()
    masks = DropPathMasks(model, sampler(), 0)
    masks.set(0, 0)
    assert not torch.allclose(model(images), plain)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.eval()(images), plain)
    assert model.state_dict().keys() == copy.deepcopy(model).state_dict().keys()


@pytest.mark.parametrize(("probability", "scale"), [(0.3, True), (0.3, False), (1.0, True)])
def test_a_share_of_the_paths_is_dropped_and_the_mean_is_kept_as_timms(probability, scale):
    model = torch.nn.Sequential(*(DropPath(probability, scale_by_keep=scale) for _ in range(3)))
    masks = DropPathMasks(model, sampler(batch=4096), 0)
    masks.set(0, 0)
    ones = torch.ones(4096, 2, 2)
    torch.manual_seed(0)
    timms = DropPath(probability, scale_by_keep=scale).train()(ones)
    seen = []
    for path in model:
        for _ in range(DROP_PATH_CALLS):
            kept = path(ones)
            assert torch.equal(kept.unique(), timms.unique())
            assert (kept == kept[:, :1, :1]).all()
            assert (kept[:, 0, 0] == 0).float().mean() == pytest.approx(probability, abs=0.03)
            seen.append(kept[:, 0, 0] != 0)
    if probability < 1:
        correlations = torch.corrcoef(torch.stack(seen).float()) - torch.eye(len(seen))
        assert correlations.abs().max() < 0.06  # each path and call draws its own


def test_a_model_without_drop_path_is_left_alone(make_student):
    model = make_student("baseline")
    masks = DropPathMasks(model, sampler(), 0)
    masks.set(0, 0)
    assert not any(isinstance(module, KeyedDropPath) for module in model.modules())


def test_compilation_changes_no_mask_and_compiles_once(make_teacher, images):
    model = make_teacher(drop_path_rate=0.4).train()  # each block of a CaiT calls its drop path twice
    masks = DropPathMasks(model, sampler(), 0)
    counted = CompileCounter()
    compiled = torch.compile(model, backend=counted, fullgraph=True)
    for step in range(3):
        outputs = []
        for forward in (model, compiled):
            masks.set(step, 0)
            outputs.append(forward(images))
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    assert counted.frame_count == 1
