"""Compilation: only of runs that are long enough, in one graph, and of the same step."""

import copy
import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parameters_to_vector

from stages.core.distillation.task import create_task
from stages.core.runtime.distributed import World
from stages.core.train import compilation
from stages.core.train.drop_path import DropPathMasks
from stages.core.train.sampler import EpochSampler
from stages.core.train.teacher import FrozenTeacher, teacher_outputs
from tests.sections import make_objective

CPU = torch.device("cpu")
OTHERS = (("baseline", "softkd_spectral"), ("widen", "softkd_spectral"), ("widen", "none"), ("lift", "mse"))
STUDENTS = ("baseline", "lift", "widen")
OBJECTIVES = {
    "none": make_objective(None),
    "mse": make_objective("mse"),
    "softkd_spectral": make_objective("spectral", alpha=0.5),
}


@pytest.mark.parametrize(
    ("models", "steps", "gflops_of_a_step", "expected"),
    [
        (17, 10 * 97, 512 * 10, False),  # cifar100_small: a seed of its controls
        (6, 12 * 21, 64 * 0.3, False),  # digits
        (1, 300 * 625, 2048 * 26, True),  # imagenet: the student's step and the teacher's pass
        (12, 300 * 625, 2048 * 115, True),  # the paper's table: twelve steps and one pass
        (12, 5, 2048 * 115, False),  # its dry run
    ],
)
def test_only_long_runs_are_compiled(models, steps, gflops_of_a_step, expected):
    assert compilation.pays(models, steps, steps * gflops_of_a_step * 1e9) is expected


@pytest.mark.parametrize("models", [2, 12])
def test_a_group_pays_as_each_of_its_models_would_with_its_share_of_the_teacher(models):
    """So many models have so many times the steps, and all but one graph of one model fewer."""
    least = 2 * compilation.LEAST_S / compilation.STEP_S  # steps that pay for one model
    assert compilation.pays(1, int(least) + 1, 0) and not compilation.pays(1, int(least) - 1, 0)
    enough = int(least * (models + 1) / (2 * models)) + 1
    assert compilation.pays(models, enough, 0) and not compilation.pays(models, enough - 2, 0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


@pytest.fixture
def make_task(make_student, make_teacher):
    def make(strategy, objective="softkd_spectral"):
        if strategy == "cait":  # a teacher that is fitted
            student, teacher = make_teacher(drop_path_rate=0.2), None
        else:
            student = make_student(strategy, drop_path_rate=0.2)
            teacher = FrozenTeacher(make_teacher(), device=CPU)
        return create_task(student, teacher, OBJECTIVES[objective], label_smoothing=0.1, device=CPU)

    return make


def step(task, images, labels):
    """Loss and gradients of one step under drop path."""
    sampler = EpochSampler(len(images), 0, batch=len(images), world=World(0, 1, CPU))
    DropPathMasks(task, sampler, 0).set(0, 0)
    task.train()
    loss = task(images, labels)["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in task.get_trainable_module().parameters()]
    return loss.detach(), parameters_to_vector(gradients)


def assert_close(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "objective"),
    [
        ("lift", "softkd_spectral"),
        ("cait", "none"),
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in OTHERS),
    ],
)
def test_student_and_teacher_are_each_one_graph(make_task, batch, strategy, objective):
    """`fullgraph` raises where the graph breaks; a second step compiles nothing anew."""
    task = make_task(strategy, objective)
    expected = step(copy.deepcopy(task), *batch)
    counted = CompileCounter()
    task.compile(backend=counted, fullgraph=True)
    assert_close(step(task, *batch), expected)
    graphs = counted.frame_count
    assert graphs == (1 if objective == "none" else 2)
    step(task, *batch)
    assert counted.frame_count == graphs


def group(make_student, make_teacher):
    """Tasks of all students with one teacher between them."""
    teacher = FrozenTeacher(make_teacher(), device=CPU)
    options = {"label_smoothing": 0.1, "device": CPU}
    objective = OBJECTIVES["softkd_spectral"]
    return [create_task(make_student(strategy), teacher, objective, **options) for strategy in STUDENTS]


def group_step(tasks, images, labels):
    """Losses and gradients of a step of students side by side."""
    outputs = teacher_outputs(tasks, images)
    for task, output in zip(tasks, outputs, strict=True):
        loss = task(images, labels, output)["loss"]
        loss.backward()
        yield loss.detach(), parameters_to_vector([one.grad for one in task.get_trainable_module().parameters()])


@pytest.mark.parametrize("backend", ["counted", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_a_group_has_one_graph_of_each_student_and_one_of_the_teacher(make_student, make_teacher, batch, backend):
    expected = list(group_step(group(make_student, make_teacher), *batch))
    tasks, counted = group(make_student, make_teacher), CompileCounter()
    for task in tasks:
        task.compile(backend=counted if backend == "counted" else backend, fullgraph=True)
    for found, same in zip(group_step(tasks, *batch), expected, strict=True):
        assert_close(found, same)
    assert counted.frame_count == (len(STUDENTS) + 1 if backend == "counted" else 0)


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", [*STUDENTS, "cait"])
def test_a_compiled_step_is_the_eager_step_but_for_rounding(make_task, batch, strategy):
    """By inductor, whose C++ takes minutes to compile."""
    task = make_task(strategy, "none" if strategy == "cait" else "softkd_spectral")
    loss, gradients = step(copy.deepcopy(task), *batch)
    assert math.isfinite(loss)
    task.compile(fullgraph=True)
    assert_close(step(task, *batch), (loss, gradients))
