"""How strongly a feature loss was applied: values, floors, shares and gradients by their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.core.config.schema import Objective
from stages.core.distillation import matching
from stages.core.distillation.task import create_task
from stages.core.models.maps import forward_with_map
from stages.core.train.teacher import FrozenTeacher

CPU = torch.device("cpu")
PLAIN = {"alpha": 0.0, "tau": 1.0, "feature_weight": 2.0}


def objective(feature: str = "mse", **settings) -> Objective:
    return Objective(**{**PLAIN, "feature": feature, **settings})


def task_of(student, teacher, asked: Objective):
    frozen = FrozenTeacher(teacher, asked.blocks, device=CPU)
    return create_task(student, frozen, asked, label_smoothing=0.1, device=CPU)


def tokens_of(maps: torch.Tensor) -> np.ndarray:
    return maps.double().movedim(1, -1).flatten(0, 2).numpy()


@pytest.fixture
def target():
    """Maps of a teacher 96 wide: one direction holds most of the energy, four more of them nearly all of the rest."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([30.0, 3.0, 3.0, 3.0, 3.0, *[0.01] * 91])
    tokens = torch.randn(40, 16, 96, generator=generator) * sizes
    basis = torch.linalg.qr(torch.randn(96, 96, generator=generator))[0]
    return (tokens @ basis.T).movedim(-1, 1).unflatten(2, (4, 4)), basis


def test_the_loss_is_relative_to_that_of_a_map_of_zeros(make_student, teacher, target):
    maps, _ = target
    task = task_of(make_student("widen"), teacher, objective())
    found = matching.reached(task, "mse", 0.75 * maps, maps)
    assert (found["own"], found["own_equal"]) == pytest.approx((0.0625, 0.0625), rel=1e-4)
    assert (found["own_floor"], found["own_equal_floor"]) == (0, 0)
    far = matching.reached(task, "mse", -2 * maps, maps)
    assert (far["own"], far["own_equal"]) == pytest.approx((9.0, 1.0), rel=1e-4)  # of each direction at most 1


def test_one_large_direction_cannot_pass_for_all(make_student, teacher, target):
    maps, basis = target
    first = torch.einsum("nchw,c->nhw", maps, basis[:, 0])
    found = matching.reached(
        task_of(make_student("widen"), teacher, objective()),
        "mse",
        torch.einsum("nhw,c->nchw", first, basis[:, 0]),
        maps,
    )
    assert found["own"] < 0.1 < 0.7 < found["own_equal"]


def test_a_narrow_student_is_measured_against_its_own_target(make_student, teacher, target):
    maps, _ = target
    generator = torch.Generator().manual_seed(1)
    narrow = torch.randn(40, 48, 4, 4, generator=generator)
    found = matching.reached(task_of(make_student("baseline"), teacher, objective()), "mse", narrow, maps)
    mine, wanted = tokens_of(narrow), tokens_of(maps).reshape(-1, 48, 2).mean(2)  # neighbouring channels, pooled
    assert found["own"] == pytest.approx(((mine - wanted) ** 2).sum() / (wanted**2).sum(), rel=1e-5)
    energies, directions = np.linalg.eigh(wanted.T @ wanted)
    order = np.argsort(energies)[::-1]
    count = int(np.searchsorted(np.cumsum(energies[order]) / energies.sum(), 0.99)) + 1
    error = (((mine - wanted) @ directions) ** 2).sum(0)[order[:count]] / energies[order[:count]]
    assert found["own_equal"] == pytest.approx(np.minimum(error, 1).mean(), rel=1e-5)


def test_lift_cannot_do_better_than_its_rank(make_student, teacher):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(40, 96, 4, 4, generator=generator)
    student = make_student("lift")
    found = matching.reached(task_of(student, teacher, objective()), "mse", maps, maps)
    energies = np.linalg.eigvalsh(tokens_of(maps).T @ tokens_of(maps))[::-1]
    assert found["own_floor"] == pytest.approx(energies[49:].sum() / energies.sum())  # 48 channels and an offset
    assert found["own"] == 0 and 0 < found["own_equal_floor"] < 0.5


def test_losses_that_are_no_squares_have_no_directions(make_student, teacher, target):
    maps, _ = target
    found = matching.reached(task_of(make_student("widen"), teacher, objective("gram")), "gram", 3 * maps, maps)
    assert found == {"own": pytest.approx(0, abs=1e-9), "own_floor": 0.0, "own_equal": None, "own_equal_floor": None}


def test_what_can_be_measured_of_a_student_alone():
    assert matching.measurable(objective()) and matching.measurable(objective(projector="frozen"))
    for unknown in ({"projector": "linear"}, {"projector": "orthogonal"}, {"blocks": ["first", "last"]}):
        assert not matching.measurable(objective(**unknown))
    assert not matching.measurable(Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_share_and_gradient_are_those_of_the_losss_parts(alpha, make_student, teacher, images):
    student, labels = make_student("baseline"), torch.arange(len(images)) % 10
    found = matching.strength(task_of(student, teacher, objective(alpha=alpha)), images, labels)
    student.eval()
    tokens = []
    hook = student.blocks[-2].register_forward_hook(lambda _, __, output: tokens.append(output))
    logits, student_map = forward_with_map(student, images)
    hook.remove()
    with torch.no_grad():
        mean, std = (torch.tensor(student.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        own_mean, own_std = (torch.tensor(teacher.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        teacher_logits, teacher_map = forward_with_map(teacher.eval(), (images * std + mean - own_mean) / own_std)
    feature = 2.0 * (student_map - teacher_map.unflatten(1, (48, 2)).mean(2)).square().mean()
    labelled = (1 - alpha) * F.cross_entropy(logits, labels, label_smoothing=0.1)
    soft = alpha * F.kl_div(logits.log_softmax(-1), teacher_logits.softmax(-1), reduction="batchmean")
    assert found["loss_share"] == pytest.approx((feature / (feature + labelled + soft)).item(), rel=1e-4)
    norms = [torch.autograd.grad(one, tokens[0], retain_graph=True)[0].norm() for one in (feature, labelled)]
    assert found["gradient_ratio"] == pytest.approx((norms[0] / norms[1]).item(), rel=1e-4)


def test_a_projector_that_was_not_saved_is_replaced_by_the_best(make_student, teacher, target):
    maps, _ = target
    generator = torch.Generator().manual_seed(3)
    narrow = torch.einsum("nchw,dc->ndhw", maps, torch.randn(48, 96, generator=generator)) + 1.0
    task = task_of(make_student("baseline"), teacher, objective(projector="linear"))
    matching.set_best_projector(task, narrow, maps)
    mine, wanted = tokens_of(narrow), tokens_of(maps)
    mine = np.hstack([mine, np.ones((len(mine), 1))])
    best = mine @ np.linalg.lstsq(mine, wanted, rcond=None)[0]
    with torch.no_grad():
        read = task.trainable_module.projectors[0](narrow)
    assert tokens_of(read) == pytest.approx(best, abs=1e-2)


def test_the_batch_of_gradients_is_spread_over_all_images():
    batches = [(torch.arange(start, start + 4.0).view(4, 1), torch.arange(start, start + 4)) for start in (0, 4, 8)]
    images, labels = matching.fixed_batch(batches, 3)
    assert images.flatten().tolist() == labels.tolist() == [0, 6, 11] or labels.tolist() == [0, 5, 11]
    assert len(matching.fixed_batch(batches, 100)[0]) == 12
