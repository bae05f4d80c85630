import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.core.base.errors import UserError
from stages.core.config import params
from stages.core.models.students import forward_with_map
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import evaluate_against_teacher
from stages.core.train.losses import feature_target, mse_loss, soft_label_loss, spectral_loss
from stages.core.train.task import check_compatible, create_task

NAMES = ["none", "mse", "spectral", "softkd", "softkd_mse", "softkd_spectral"]
CPU = torch.device("cpu")
SMOOTHING = 0.1


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 3, 9, 7])


@pytest.fixture
def definitions(root):
    return params.load(root / "params.yaml").objective.definitions


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 8, 4, 6, generator=generator), torch.randn(3, 8, 4, 6, generator=generator)


def plain_pool(teacher_map, width):
    """Average the teacher's channels over `width` adaptive windows."""
    channels = teacher_map.shape[1]
    windows = [(i * channels // width, -(-(i + 1) * channels // width)) for i in range(width)]
    return torch.stack([teacher_map[:, start:stop].mean(dim=1) for start, stop in windows], dim=1)


def plain_spectral(student_map, target):
    difference = np.fft.rfft2((student_map - target).double().numpy(), norm="ortho")
    return np.mean(np.stack([difference.real, difference.imag]) ** 2)


def plain_loss(objective, student, teacher, images, labels):
    logits, student_map = forward_with_map(student, images)
    mean, std = (torch.tensor(student.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    teacher_mean, teacher_std = (torch.tensor(teacher.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    teacher_logits, teacher_map = forward_with_map(teacher, (images * std + mean - teacher_mean) / teacher_std)

    logs = torch.log_softmax(logits, dim=1)
    entropy = (-(1 - SMOOTHING) * logs[range(len(labels)), labels] - SMOOTHING * logs.mean(dim=1)).mean()
    student_soft = torch.log_softmax(logits / objective.tau, dim=1)
    teacher_soft = torch.log_softmax(teacher_logits / objective.tau, dim=1)
    divergence = (teacher_soft.exp() * (teacher_soft - student_soft)).sum(dim=1).mean()
    loss = (1 - objective.alpha) * entropy + objective.alpha * objective.tau**2 * divergence
    target = plain_pool(teacher_map, student_map.shape[1])
    if objective.feature == "mse":
        loss = loss + objective.feature_weight * (student_map - target).square().mean()
    elif objective.feature == "spectral":
        loss = loss + objective.feature_weight * plain_spectral(student_map, target)
    return loss


def test_the_six_objectives_are_those_of_params(definitions):
    assert sorted(definitions) == sorted(NAMES)


@pytest.mark.parametrize("tau", [None, 3.0])
@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_the_plain_formula(name, strategy, tau, definitions, make_student, teacher, images, labels):
    objective = definitions[name] if tau is None else definitions[name].model_copy(update={"tau": tau})
    student = make_student(strategy)
    task = create_task(student, teacher, **objective.model_dump(), label_smoothing=SMOOTHING, device=CPU).train()
    found = task(images, labels)
    with torch.no_grad():
        torch.testing.assert_close(found["loss"], plain_loss(objective, student, teacher, images, labels).float())
        torch.testing.assert_close(found["output"], student(images))


def test_without_a_teacher_only_the_labels_count(definitions, make_student, teacher, images, labels):
    student = make_student("lift")
    softkd = definitions["softkd_mse"].model_dump()
    task = create_task(student, None, **softkd, label_smoothing=SMOOTHING, device=CPU)
    expected = F.cross_entropy(student(images), labels, label_smoothing=SMOOTHING)
    torch.testing.assert_close(task(images, labels)["loss"], expected)


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_student_and_never_the_teacher(
    name, strategy, definitions, make_student, teacher, images, labels
):
    student = make_student(strategy)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    objective = definitions[name].model_dump()
    task = create_task(student, teacher, **objective, label_smoothing=SMOOTHING, device=CPU).train()
    task(images, labels)["loss"].backward()
    without = [key for key, value in student.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []
    for frozen in (teacher, getattr(task, "teacher", teacher)):
        assert all(parameter.grad is None for parameter in frozen.parameters())
        assert not frozen.training
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_is_trained_saved_and_evaluated(name, definitions, make_student, teacher):
    student = make_student("lift")
    task = create_task(student, teacher, **definitions[name].model_dump(), label_smoothing=0.0, device=CPU)
    trainable = {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in student.parameters()}
    assert task.get_eval_model() is student


@pytest.mark.parametrize("columns", [4, 5, 6, 1])
def test_spectral_loss_equals_numpys(columns):
    student_map, target = torch.randn(2, 2, 3, 4, columns, generator=torch.Generator().manual_seed(0))
    assert spectral_loss(student_map, target).item() == pytest.approx(plain_spectral(student_map, target), rel=1e-5)


def test_mse_loss_equals_the_full_spectrums_by_parseval(maps):
    spectrum = np.fft.fft2((maps[0] - maps[1]).double().numpy(), norm="ortho")
    assert mse_loss(*maps).item() == pytest.approx(np.mean(np.abs(spectrum) ** 2), rel=1e-5)


@pytest.mark.parametrize("loss", [mse_loss, spectral_loss])
def test_feature_losses_take_half_precision(loss, maps):
    student_map, target = (found.bfloat16() for found in maps)
    torch.testing.assert_close(loss(student_map, target), loss(student_map.float(), target.float()))
    assert loss(maps[0], maps[0]) == 0


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_soft_label_loss_is_torchs_divergence(tau):
    student, teacher = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher / tau), torch.distributions.Categorical(logits=student / tau)
    )
    torch.testing.assert_close(soft_label_loss(student, teacher, tau), tau**2 * divergence.mean())


@pytest.mark.parametrize("width", [8, 4, 5, 3, 1])
def test_channels_are_pooled_by_adaptive_averaging(maps, width):
    student_map = torch.zeros(3, width, 4, 6)
    torch.testing.assert_close(feature_target(maps[0], student_map), plain_pool(maps[0], width))


def test_a_narrower_teacher_is_refused():
    with pytest.raises(UserError, match=r"narrower \(8 channels\).*last block \(9\)"):
        feature_target(torch.zeros(1, 8, 2, 2), torch.zeros(1, 9, 2, 2))


def test_differing_grids_are_refused():
    with pytest.raises(UserError, match=r"\(2, 2\) differs from the student's \(2, 3\)"):
        feature_target(torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"lift_width": 97}, r"narrower \(96 channels\)"),
        ({"patch_size": 4}, r"\(4, 4\) differs from the student's \(2, 2\)"),
        ({"num_classes": 7}, "has 10 classes, the student 7"),
    ],
)
def test_students_that_cannot_be_compared_are_refused(arguments, reason, make_student, teacher):
    with pytest.raises(UserError, match=reason):
        check_compatible(make_student("lift", **arguments), teacher, 8, feature=True)


def test_students_that_can_be_compared_pass(make_student, teacher):
    for strategy in ("baseline", "lift", "widen", "uniform"):
        check_compatible(make_student(strategy), teacher, 8, feature=True)


def test_a_student_wider_than_its_teacher_wants_no_feature_loss(make_student, teacher, images):
    wide = make_student("lift", lift_width=112)
    check_compatible(wide, teacher, 8, feature=False)
    found = evaluate_against_teacher(wide, teacher, [(images, torch.arange(5))], World(0, 1, CPU))
    assert found.metrics["relative_feature_error"] is None and found.predictions.shape == (5,)


def test_the_pooled_target_of_a_teacher_in_bfloat16_is_not_rounded_again(make_student, teacher, images, labels):
    task = create_task(
        make_student("baseline"),
        teacher,
        alpha=0.0,
        tau=1.0,
        feature="mse",
        feature_weight=1.0,
        label_smoothing=0.0,
        device=CPU,
        teacher_dtype=torch.bfloat16,
    )
    own = copy.deepcopy(teacher).to(torch.bfloat16)
    with torch.no_grad():
        teacher_map = forward_with_map(own, task.renormalize(images).to(torch.bfloat16))[1].float()
        _, student_map = forward_with_map(task.get_eval_model(), images)
        parts = task(images, labels)
    expected = (plain_pool(teacher_map, student_map.shape[1]) - student_map).square().mean()
    torch.testing.assert_close(parts["feature_loss"], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen"])
def test_a_compiled_task_computes_and_saves_what_the_plain_one_does(strategy, make_student, teacher, images):
    objective = {"alpha": 0.9, "tau": 1.0, "feature": "spectral", "feature_weight": 0.2, "label_smoothing": 0.1}
    labels = torch.arange(5)
    losses, states = [], []
    for compiled in (False, True):
        task = create_task(make_student(strategy), teacher, **objective, device=CPU).train()
        task.setup_ema(decay=0.5)
        if compiled:
            task.compile(backend="aot_eager")
        loss = task(images, labels)["loss"]
        loss.backward()
        losses.append(loss.detach())
        task.update_ema(1)
        states.append({**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True)})
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    for kind in ("state_dict", "state_dict_ema"):
        assert list(states[1][kind]) == list(states[0][kind]) == list(make_student(strategy).state_dict())


def test_a_teacher_in_bfloat16_leaves_the_callers_alone(make_student, teacher, images):
    objective = {"alpha": 0.9, "tau": 1.0, "feature": "mse", "feature_weight": 0.2, "label_smoothing": 0.1}
    parts = []
    for dtype in (torch.float32, torch.bfloat16):
        task = create_task(make_student("widen"), teacher, **objective, device=CPU, teacher_dtype=dtype)
        parts.append(task(images, torch.arange(5)))
        assert {value.dtype for value in task.teacher.parameters()} == {dtype}
    assert {value.dtype for value in teacher.parameters()} == {torch.float32}
    assert parts[1]["feature_loss"].item() == pytest.approx(parts[0]["feature_loss"].item(), rel=0.02)
