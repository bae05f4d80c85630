import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.core.analysis.dims import shares
from stages.core.analysis.pca import shared_basis
from stages.core.distillation.balanced_targets import token_moments
from stages.core.distillation.principal_targets import PrincipalTarget, leading_directions, match_leading_directions
from stages.core.distillation.task import create_task
from stages.core.losses.targets import pool_channels
from stages.core.train.teacher import FrozenTeacher
from tests.sections import make_objective

CPU = torch.device("cpu")


@pytest.fixture
def maps():
    """Maps [images, channels, rows, columns] with a falling spectrum and a mean."""
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(12, 12, generator=generator) * torch.logspace(0, -2, 12)
    return (torch.randn(40, 12, 4, 3, generator=generator).movedim(1, -1) @ mixture.T + 0.5).movedim(-1, 1)


def target_of(maps, width):
    return PrincipalTarget(leading_directions(token_moments(maps.split(7)), width).float())


@pytest.mark.parametrize("width", [1, 5, 12])
def test_a_target_is_the_teachers_map_along_the_leading_singular_vectors(width, maps):
    tokens = maps.movedim(1, -1).reshape(-1, 12).double().numpy()
    left, values, _ = np.linalg.svd(tokens, full_matrices=False)
    found = target_of(maps, width)(maps).movedim(1, -1).reshape(-1, width).double().numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(left * values)[:, :width], atol=2e-5)  # signs are arbitrary


def test_as_wide_as_the_teacher_it_is_the_whole_map_rotated(maps):
    target = target_of(maps, 12)
    torch.testing.assert_close(target.directions @ target.directions.T, torch.eye(12))
    student = torch.randn(40, 12, 4, 3, generator=torch.Generator().manual_seed(1))
    rotated = (student.movedim(1, -1) @ target.directions.T).movedim(-1, 1)
    torch.testing.assert_close(F.mse_loss(rotated, target(maps)), F.mse_loss(student, maps))


def test_the_energy_kept_is_that_of_the_dataset_pca_and_more_than_pooling_keeps(maps):
    features = maps.flatten(2).transpose(1, 2).numpy()
    kept = shares(shared_basis(features).eigenvalues)
    for width in range(1, 13):
        energy = target_of(maps, width)(maps).square().sum() / maps.square().sum()
        assert energy.item() == pytest.approx(kept[width - 1], rel=1e-5)
        if 12 % width == 0:
            pooled = pool_channels(maps, width).repeat_interleave(12 // width, 1)  # back at the teacher's width
            assert (pooled.square().sum() / maps.square().sum()).item() <= energy.item() + 1e-6


def test_a_group_asks_for_the_statistics_of_each_block_once(make_student, teacher, images):
    frozen = FrozenTeacher(teacher, ["first", "last"], device=CPU)

    def make_task(strategy, *blocks):
        objective = make_objective(target="principal", blocks=list(blocks))
        return create_task(make_student(strategy), frozen, objective, label_smoothing=0.1, device=CPU)

    tasks = [make_task("baseline", "last"), make_task("widen", "last"), make_task("lift", "first", "last")]
    asked = []

    def moments(task, position):
        asked.append((tasks.index(task), position))
        return token_moments([task.teacher_output(images).maps[position]])

    match_leading_directions(tasks, moments)
    assert asked == [(0, 0), (2, 0)]
    widths = [[len(target.directions) for target in task.trainable_module.targets] for task in tasks]
    assert widths == [[48], [96], [48, 96]]
    saved = tasks[0].get_task_state()["targets"]
    other = make_task("baseline", "last")
    match_leading_directions([other], lambda task, at: (torch.zeros(96).double(), torch.eye(96).double()))
    other.load_task_state({"targets": saved})  # a resumed run goes on with the statistics that it began with
    assert torch.equal(other.trainable_module.targets[0].directions, tasks[0].trainable_module.targets[0].directions)


def test_a_projector_beside_leading_directions_is_refused():
    with pytest.raises(ValueError, match=r"target must be features or balanced where there is a projector \(linear\)"):
        make_objective(target="principal", projector="linear")
