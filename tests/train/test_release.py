"""The recipe's choices that repeat the authors' release, against its figures and definitions (paper.yaml)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook

from stages.core.base.errors import UserError
from stages.core.config.schema import Recipe
from stages.core.distillation.lessons import frozen_teacher
from stages.core.distillation.task import check_compatible, create_task
from stages.core.models.maps import forward_with_map
from stages.core.runtime.distributed import World
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.loop import fit_together
from stages.core.train.optimization import optimizer
from stages.core.train.outputs import best_epoch
from stages.core.train.tasks import labels_task
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from stages.paths import REFERENCE
from stages.tools.compose import composed
from tests.sections import make_objective, make_recipe

CPU = torch.device("cpu")
RECIPE = Recipe.model_validate(yaml.safe_load(composed("profile=imagenet"))["recipe"])
DEFAULT = Recipe.model_validate(yaml.safe_load(composed())["recipe"])
STEPS = 2  # of an epoch
SHORT = make_recipe(epochs=2, ema_decay=None, clip_grad=None)
RELEASE = RECIPE.model_copy(update={"ema_decay": None, "precision": "float32"})


class StoppedError(Exception):
    pass


@pytest.fixture
def published(root):
    return yaml.safe_load((root / REFERENCE / "paper.yaml").read_text())["recipe"]


@pytest.fixture
def train(tmp_path, images):
    """Fit a student in epochs of two steps; calls `observe` with the optimizer after each step."""

    def run(student, observe=lambda optimizer: None, *, recipe=SHORT, name="run", stop_after=None):
        labels = torch.arange(len(images)) % 10
        sampler = SimpleNamespace(micro_batches=1, steps=STEPS, batch=len(images))
        epoch = lambda number, start=0: ((images, labels) for _ in range(start, STEPS))  # noqa: E731
        task = labels_task(student, 0.1, CPU)
        hook = register_optimizer_step_post_hook(lambda optimizer, *_: observe(optimizer))

        def log(metrics):
            if metrics["epoch"] == stop_after:
                raise StoppedError

        try:
            with CheckpointFolder(tmp_path / "checkpoints", name, {}, {}) as checkpoints:
                training = Training(task, checkpoints, recipe, sampler, seed=0, world=World(0, 1, CPU), log=log)
                fit_together([training], SimpleNamespace(sampler=sampler, epoch=epoch), [(images, labels)])
        finally:
            hook.remove()
        return training

    return run


def test_the_rate_by_epoch_is_the_one_of_the_published_log(train, make_student, published):
    rates = []
    expected = published["schedule"]["lr_of_epochs"]
    student = make_student("lift")
    for last in (3, len(expected) - 1):  # interrupted after three epochs, and continued
        with pytest.raises(StoppedError):
            train(student, lambda opt: rates.append(opt.param_groups[0]["lr"]), recipe=RELEASE, stop_after=last)
    # The epoch that was interrupted in its log is trained already, and only evaluated again.
    assert rates == pytest.approx([rate for rate in expected for _ in range(STEPS)], rel=1e-6)


def test_the_rate_by_step_rises_within_the_warmup(train, make_student):
    rates = []
    recipe = RELEASE.model_copy(update={"schedule": "step"})
    with pytest.raises(StoppedError):
        train(make_student("lift"), lambda opt: rates.append(opt.param_groups[0]["lr"]), recipe=recipe, stop_after=1)
    start, peak, warmup = RECIPE.warmup_lr, RECIPE.lr, RECIPE.warmup_epochs * STEPS
    assert rates == pytest.approx([start + (peak - start) * step / warmup for step in range(2 * STEPS)])


@pytest.mark.parametrize(
    ("strategy", "decayed"), [("baseline", False), ("uniform", False), ("lift", True), ("widen", True)]
)
def test_embeddings_are_decayed_where_the_release_decays_them(make_student, published, strategy, decayed):
    assert (strategy in published["decayed_embeddings"]) == decayed
    for recipe, expected in ((RECIPE, decayed), (DEFAULT, False)):
        student, decays = make_student(strategy), {}
        for group in optimizer(recipe, labels_task(student, 0.1, CPU)).param_groups:
            decays |= {id(weights): group["weight_decay"] for weights in group["params"]}
        for key, parameter in student.named_parameters():
            embedding = key in ("pos_embed", "cls_token")
            matrix = parameter.ndim > 1 and (expected or not embedding)
            assert decays[id(parameter)] == (recipe.weight_decay if matrix else 0.0), key


@pytest.mark.parametrize("start", ["initial", "first_step"])
def test_averaged_weights_start_where_the_recipe_says(train, make_student, start):
    decay, student = 0.75, make_student("lift")
    weights = [student.head.weight.detach().clone()]
    recipe = SHORT.model_copy(update={"ema_decay": decay, "ema_start": start})
    training = train(student, lambda _: weights.append(student.head.weight.detach().clone()), recipe=recipe)
    average, *later = weights if start == "initial" else weights[1:]
    for one in later:
        average = decay * average + (1 - decay) * one
    torch.testing.assert_close(training.ema_model.head.weight, average)
    assert len(weights) == 1 + 2 * STEPS


def test_the_releases_average_keeps_a_share_of_the_initial_weights():
    steps = RECIPE.epochs * (1_281_167 // RECIPE.global_batch)
    assert RECIPE.ema_start == "initial" and RECIPE.ema_decay**steps == pytest.approx(5.5e-4, rel=0.01)


@pytest.mark.parametrize(("precision", "rounded"), [("autocast", False), ("rounded", True)])
def test_the_teacher_computes_in_the_recipes_precision(make_student, make_teacher, images, precision, rounded):
    recipe = RECIPE.model_copy(update={"teacher_precision": precision})
    teacher, student = make_teacher(), make_student("lift")
    teacher.pretrained_cfg |= {key: student.pretrained_cfg[key] for key in ("mean", "std")}
    frozen = frozen_teacher(teacher, recipe, ["last"], CPU)
    task = create_task(student, frozen, make_objective(alpha=0.9), label_smoothing=0.0, device=CPU)
    dtypes = {parameter.dtype for parameter in task.teacher.parameters()}
    assert dtypes == {torch.bfloat16 if rounded else torch.float32}

    with torch.no_grad():
        losses = task.eval()(images, torch.zeros(len(images), dtype=torch.long))
        logits, student_map = forward_with_map(student, images)
        if rounded:
            outputs = forward_with_map(make_teacher().bfloat16(), images.bfloat16())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = forward_with_map(teacher, images)
    teacher_logits, teacher_map = (output.float() for output in outputs)
    torch.testing.assert_close(losses["feature_loss"], (student_map - teacher_map).square().mean())
    divergence = F.kl_div(logits.log_softmax(1), teacher_logits.log_softmax(1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(losses["kd_loss"], divergence)


@pytest.mark.parametrize("feature", ["mse", "spectral"])
def test_a_student_wider_than_its_teacher_is_pooled(make_student, teacher, images, feature, published):
    assert published["distillation"]["wider_student"] == "pooled"
    student = make_student("lift", lift_width=160)  # the teacher has 96 channels
    objective = make_objective(feature, wider="pool")
    check_compatible(student, teacher, 8, feature=objective.refuses_wider)
    with pytest.raises(UserError, match="narrower"):
        check_compatible(student, teacher, 8, feature=objective.model_copy(update={"wider": "refuse"}).refuses_wider)
    task = create_task(student, FrozenTeacher(teacher, device=CPU), objective, label_smoothing=0.1, device=CPU)
    losses = task(images, torch.zeros(len(images), dtype=torch.long))
    with torch.no_grad():
        _, wide = forward_with_map(student, images)
        _, target = forward_with_map(teacher, task.renormalize(images))
    # Adaptive average pooling: channel c of 96 is the mean of those from floor(160 c / 96) to ceil(160 (c + 1) / 96).
    bins = [(160 * channel // 96, -(-160 * (channel + 1) // 96)) for channel in range(96)]
    pooled = torch.stack([wide[:, first:end].mean(1) for first, end in bins], dim=1)
    difference = pooled - target
    if feature == "mse":
        expected = difference.square().mean()
    else:
        spectrum = torch.fft.rfft2(difference, norm="ortho")
        expected = (spectrum.real.square().mean() + spectrum.imag.square().mean()) / 2
    torch.testing.assert_close(losses["feature_loss"], expected)
    losses["loss"].backward()
    assert student.lift_proj.weight.grad.abs().sum() > 0


def test_the_best_epoch_is_the_first_of_the_highest_top1():
    history = [{"epoch": epoch, "top1": top1} for epoch, top1 in enumerate((10.0, 76.99, 76.95, 76.99, 76.9))]
    assert best_epoch(history) == {"top1_best": 76.99, "top1_best_epoch": 1}
