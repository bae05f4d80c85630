import copy

import pytest
import together
import torch
import torch.nn.functional as F
from formulas import FORMULAS

from stages.core.base.errors import UserError
from stages.core.config import params
from stages.core.config.feature_losses import takes_any_width
from stages.core.distillation.against_teacher import evaluate_against_teacher
from stages.core.distillation.balanced_targets import hadamard_matrix, token_moments
from stages.core.distillation.principal_targets import match_leading_directions
from stages.core.distillation.task import check_compatible, create_task
from stages.core.losses.targets import feature_target
from stages.core.models.maps import forward_with_map
from stages.core.runtime.distributed import World, launch
from stages.core.train.optimization import parameter_groups
from stages.core.train.teacher import FrozenTeacher
from stages.tools.compose import composed
from tests.sections import make_objective, make_recipe

PAPER = ["none", "mse", "spectral", "softkd", "softkd_mse", "softkd_spectral"]
CONTROLS = ["projector", "frozen_projector", "orthogonal_projector", "normalized_mse", "gram", "relation"]
CONTROLS += ["l1_cosine", "balanced_mse", "principal_mse"]
UNPROJECTED = ("gram", "relation", "principal_mse")
PROJECTED = {f"{beside}{name}" for beside in ("", "softkd_") for name in CONTROLS if name not in UNPROJECTED}
NAMES = [*PAPER, *CONTROLS, *(f"softkd_{name}" for name in CONTROLS)]
CPU = torch.device("cpu")
SMOOTHING = 0.1


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 3, 9, 7])


@pytest.fixture
def definitions(tmp_path):
    (tmp_path / "params.yaml").write_text(composed())
    return params.load(tmp_path / "params.yaml").objective.definitions


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 8, 4, 6, generator=generator), torch.randn(3, 8, 4, 6, generator=generator)


def plain_pool(teacher_map, width):
    """Average the teacher's channels over `width` adaptive windows."""
    channels = teacher_map.shape[1]
    windows = [(i * channels // width, -(-(i + 1) * channels // width)) for i in range(width)]
    return torch.stack([teacher_map[:, start:stop].mean(dim=1) for start, stop in windows], dim=1)


def plain_target(teacher_map):
    """PHI-S from all tokens of these maps, with an eigendecomposition by SVD of the centred tokens."""
    tokens = teacher_map.double().movedim(1, -1).flatten(0, 2)
    centred = tokens - tokens.mean(0)
    _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
    scale = (singular**2).sum() / len(tokens) / tokens.shape[1]
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    # Eigenvalues are ordered upwards, those of fewer tokens than channels begin with zeros; singular values downwards.
    columns = torch.from_numpy(hadamard_matrix(tokens.shape[1]))[:, -len(vectors) :]
    rotation = columns @ vectors.flip(0) / scale.sqrt()
    balanced = centred @ rotation.T
    return balanced.unflatten(0, teacher_map.movedim(1, -1).shape[:3]).movedim(-1, 1)


def plain_principal(teacher_map, width):
    """The leading right singular vectors of all tokens of these maps, and the tokens along them."""
    tokens = teacher_map.double().movedim(1, -1).flatten(0, 2)
    _, _, vectors = torch.linalg.svd(tokens)
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return (tokens @ vectors[:width].T).unflatten(0, teacher_map.movedim(1, -1).shape[:3]).movedim(-1, 1)


def plain_loss(objective, student, teacher, images, labels, project=None):
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
    if objective.feature:
        target = plain_target(teacher_map) if objective.target == "balanced" else teacher_map
        if objective.target == "principal":
            target = plain_principal(teacher_map, student_map.shape[1])
        if objective.projector and (objective.project_equal or student_map.shape[1] != teacher_map.shape[1]):
            student_map = project(student_map)
        elif not takes_any_width(objective.feature):
            target = plain_pool(target, student_map.shape[1])
        loss = loss + objective.feature_weight * FORMULAS[objective.feature](student_map.detach(), target)
    return loss


def test_params_define_the_papers_objectives_and_the_controls(definitions):
    assert list(definitions) == NAMES
    for name in CONTROLS:
        alone, beside = definitions[name], definitions[f"softkd_{name}"]
        assert alone.alpha == 0 and alone.feature_weight == 0.2
        assert beside == alone.model_copy(update={"alpha": 0.9, "tau": 1.0})


def make_task(objective, student, teacher, images, **options):
    """The task of an objective; targets take their statistics from the batch."""
    frozen = FrozenTeacher(teacher, objective.blocks, device=CPU)
    task = create_task(student, frozen, objective, label_smoothing=SMOOTHING, device=CPU, **options).train()
    if objective.target == "balanced":
        task.balance([(images, None)])
    if objective.target == "principal":
        match_leading_directions([task], lambda task, at: token_moments([task.teacher_output(images).maps[at]]))
    return task


@pytest.mark.parametrize("tau", [None, 3.0])
@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_the_plain_formula(name, strategy, tau, definitions, make_student, teacher, images, labels):
    objective = definitions[name] if tau is None else definitions[name].model_copy(update={"tau": tau})
    student = make_student(strategy)
    task = make_task(objective, student, teacher, images)
    found = task(images, labels)
    project = task.trainable_module.projectors[0] if objective.projector else None
    with torch.no_grad():
        expected = plain_loss(objective, student, teacher, images, labels, project)
        torch.testing.assert_close(found["loss"], expected.float(), rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(found["output"], student(images))


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen"])
@pytest.mark.parametrize("name", ["mse", "projector", "gram"])
def test_several_blocks_are_compared_by_the_mean_of_their_losses(
    name, strategy, definitions, make_student, teacher, images, labels
):
    student, tokens = make_student(strategy), []
    for model in (student, teacher):  # the task's copy of the teacher keeps the hook
        model.blocks[0].register_forward_hook(lambda module, inputs, output: tokens.append(output.detach()))
    both = make_task(definitions[name].model_copy(update={"blocks": ["first", "last"]}), student, teacher, images)
    found = both(images, labels)["feature_loss"]
    teacher_tokens, student_tokens = tokens
    first = both.trainable_module.projectors[0](as_map(student_tokens[:, student.num_prefix_tokens :]))
    target = as_map(teacher_tokens)
    if name == "mse":
        target = plain_pool(target, first.shape[1])
    first_loss = FORMULAS[definitions[name].feature](first.detach(), target)
    last = make_task(definitions[name], student, teacher, images)
    last.trainable_module.projectors[0] = both.trainable_module.projectors[1]
    last_loss = last(images, labels)["feature_loss"]
    assert found.item() == pytest.approx((first_loss + last_loss.item()) / 2, rel=2e-5)


def as_map(tokens):
    """Tokens [images, 16, channels] as a map."""
    return tokens.transpose(1, 2).unflatten(2, (4, 4))


def test_without_a_teacher_only_the_labels_count(definitions, make_student, teacher, images, labels):
    student = make_student("lift")
    task = create_task(student, None, definitions["softkd_mse"], label_smoothing=SMOOTHING, device=CPU)
    expected = F.cross_entropy(student(images), labels, label_smoothing=SMOOTHING)
    torch.testing.assert_close(task(images, labels)["loss"], expected)


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_that_is_trained_and_never_the_teacher(
    name, strategy, definitions, make_student, teacher, images, labels
):
    student = make_student(strategy)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    task = make_task(definitions[name], student, teacher, images)
    task(images, labels)["loss"].backward()
    trained = dict(task.get_trainable_module().named_parameters())
    without = [key for key, value in trained.items() if value.grad is None or not value.grad.any()]
    assert without == (["projectors.0.linear.weight", "projectors.0.linear.bias"] if "frozen" in name else [])
    for frozen in (teacher, getattr(task, "teacher", teacher)):
        assert all(parameter.grad is None for parameter in frozen.parameters())
        assert not frozen.training
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_is_saved_and_evaluated(name, definitions, make_student, teacher, images):
    student = make_student("baseline")
    task = make_task(definitions[name], student, teacher, images)
    projectors = [] if name not in PROJECTED else task.trainable_module.projectors.parameters()
    trainable = {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    beside = {id(parameter) for parameter in projectors if parameter.requires_grad}
    assert trainable == beside | {id(parameter) for parameter in student.parameters()}
    assert bool(beside) == (name in PROJECTED and "frozen" not in name)
    assert task.get_eval_model() is student
    assert list(task.get_checkpoint_state()["state_dict"]) == list(student.state_dict())


@pytest.mark.parametrize("name", ["projector", "frozen_projector", "orthogonal_projector", "balanced_mse", "gram"])
def test_a_checkpoint_restores_what_is_trained_beside_the_student(name, definitions, make_student, teacher, images):
    labels, losses, states = torch.arange(5), [], []
    for seed in (0, 1):  # another seed: other projectors, until the first one's are loaded
        task = make_task(definitions[name], make_student("baseline"), teacher, (1 + seed) * images, seed=seed)
        task.setup_ema(decay=0.5)
        if states:
            task.load_checkpoint_state(states[0]["state_dict"], states[0].get("task_state"))
            task.load_checkpoint_state(states[0]["state_dict_ema"], states[0].get("task_state_ema"), ema=True)
        losses.append(task(images, labels)["loss"].item())
        states.append(copy.deepcopy({**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True)}))
    assert losses[0] == losses[1]
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert ("task_state" in states[0]) == (name != "gram")
    if name != "gram":
        with pytest.raises(RuntimeError, match="Missing key"):
            task.load_checkpoint_state(states[0]["state_dict"])


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
    (found,) = evaluate_against_teacher([wide], teacher, [(images, torch.arange(5))], World(0, 1, CPU))
    assert found.metrics["relative_feature_error"] is None and found.predictions.shape == (5,)


def test_the_pooled_target_of_a_teacher_in_bfloat16_is_not_rounded_again(make_student, teacher, images, labels):
    frozen = FrozenTeacher(teacher, device=CPU, dtype=torch.bfloat16)
    task = create_task(make_student("baseline"), frozen, make_objective("mse"), label_smoothing=0.0, device=CPU)
    own = copy.deepcopy(teacher).to(torch.bfloat16)
    with torch.no_grad():
        teacher_map = forward_with_map(own, task.renormalize(images).to(torch.bfloat16))[1].float()
        _, student_map = forward_with_map(task.get_eval_model(), images)
        parts = task(images, labels)
    expected = (plain_pool(teacher_map, student_map.shape[1]) - student_map).square().mean()
    torch.testing.assert_close(parts["feature_loss"], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen"])
def test_a_compiled_task_computes_and_saves_what_the_plain_one_does(strategy, make_student, teacher, images):
    objective, labels = make_objective("spectral", alpha=0.9), torch.arange(5)
    losses, states = [], []
    for compiled in (False, True):
        frozen = FrozenTeacher(teacher, device=CPU)
        task = create_task(make_student(strategy), frozen, objective, label_smoothing=0.1, device=CPU).train()
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
    objective, parts = make_objective("mse", alpha=0.9), []
    for dtype in (torch.float32, torch.bfloat16):
        frozen = FrozenTeacher(teacher, device=CPU, dtype=dtype)
        task = create_task(make_student("widen"), frozen, objective, label_smoothing=0.1, device=CPU)
        parts.append(task(images, torch.arange(5)))
        assert {value.dtype for value in task.teacher.parameters()} == {dtype}
    assert {value.dtype for value in teacher.parameters()} == {torch.float32}
    assert parts[1]["feature_loss"].item() == pytest.approx(parts[0]["feature_loss"].item(), rel=0.02)


@pytest.mark.processes
@pytest.mark.usefixtures("quick_start")
def test_two_processes_compute_the_gradients_of_one(definitions, tmp_path, monkeypatch):
    controls = {name: definitions[f"softkd_{name}"] for name in CONTROLS}
    controls["blocks"] = definitions["projector"].model_copy(update={"blocks": ["first", "last"]})
    found = []
    for processes in (1, 2):
        monkeypatch.setenv("PROCESSES", str(processes))
        launch(together.write_gradients, out := tmp_path / f"{processes}.pt", controls)
        found.append(torch.load(out, weights_only=True))
    alone, shared = found
    for name in controls:
        assert shared[name].keys() == alone[name].keys()
        for key, value in alone[name].items():
            scale = value.abs().max().item()
            torch.testing.assert_close(shared[name][key], value, rtol=1e-3, atol=1e-4 * scale, msg=f"{name}: {key}")


def test_projectors_are_decayed_like_any_linear_layer(definitions, make_student, teacher, images):
    student = make_student("baseline")
    task = make_task(definitions["projector"], student, teacher, images)
    projector = task.trainable_module.projectors[0].linear
    recipe = make_recipe(weight_decay=0.05)
    decay = {
        id(parameter): group["weight_decay"]
        for group in parameter_groups(recipe, task)
        for parameter in group["params"]
    }
    assert decay[id(projector.weight)] == 0.05 and decay[id(projector.bias)] == 0
    assert decay[id(student.blocks[0].mlp.fc1.weight)] == 0.05 and decay[id(student.pos_embed)] == 0
    assert len(decay) == len(list(task.trainable_module.parameters()))
    frozen = make_task(definitions["frozen_projector"], student, teacher, images)
    groups = parameter_groups(recipe, frozen)
    assert sum(len(group["params"]) for group in groups) == len(list(student.parameters()))
