"""The recipe's choices that repeat the authors' release, against its figures and definitions (paper.yaml)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook

from stages.core.base.errors import UserError
from stages.core.config.schema import Objective, Recipe
from stages.core.distillation.lessons import teacher_precision
from stages.core.distillation.task import check_compatible, create_task
from stages.core.models.maps import forward_with_map
from stages.core.runtime.distributed import World
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.fitting import decays_embeddings
from stages.core.train.loop import fit
from stages.core.train.outputs import best_epoch
from stages.paths import REFERENCE
from stages.tools.compose import composed

CPU = torch.device("cpu")
RECIPE = Recipe.model_validate(yaml.safe_load(composed("profile=imagenet"))["recipe"])
DEFAULT = Recipe.model_validate(yaml.safe_load(composed())["recipe"])
STEPS = 2  # of an epoch
OPTIMIZATION = {"warmup_epochs": 1, "warmup_lr": 1e-6, "min_lr": 1e-5, "clip_grad": None, "precision": "float32"}


class StoppedError(Exception):
    pass


@pytest.fixture
def published(root):
    return yaml.safe_load((root / REFERENCE / "paper.yaml").read_text())["recipe"]


@pytest.fixture
def train(tmp_path, images):
    """Fit a student for some epochs of two steps; calls `observe` with the optimizer after each step."""

    def run(student, observe=lambda optimizer: None, *, name="run", stop_after=None, **options):
        labels = torch.arange(len(images)) % 10
        sampler = SimpleNamespace(pieces=1, steps=STEPS, batch=len(images))
        epoch = lambda number, start=0: ((images, labels) for _ in range(start, STEPS))  # noqa: E731
        task = create_task(
            student, None, alpha=0.0, tau=1.0, feature=None, feature_weight=0.0, label_smoothing=0.1, device=CPU
        )
        hook = register_optimizer_step_post_hook(lambda optimizer, *_: observe(optimizer))

        def log(metrics):
            if metrics["epoch"] == stop_after:
                raise StoppedError

        options = {"epochs": 2, "lr": 1e-3, "weight_decay": 0.05, "ema_decay": None, **OPTIMIZATION, **options}
        try:
            with CheckpointFolder(tmp_path / "checkpoints", name, {}, {}, fresh=False) as checkpoints:
                return fit(
                    task,
                    SimpleNamespace(sampler=sampler, epoch=epoch),
                    [(images, labels)],
                    seed=0,
                    world=World(0, 1, CPU),
                    checkpoints=checkpoints,
                    log=log,
                    **options,
                )
        finally:
            hook.remove()

    return run


def test_the_rate_by_epoch_is_the_one_of_the_published_log(train, make_student, published):
    rates = []
    expected = published["schedule"]["lr_of_epochs"]
    optimization = RECIPE.optimization() | {"ema_decay": None, "precision": "float32"}
    student = make_student("lift")
    for last in (3, len(expected) - 1):  # interrupted after three epochs, and continued
        with pytest.raises(StoppedError):
            train(student, lambda opt: rates.append(opt.param_groups[0]["lr"]), stop_after=last, **optimization)
    # The epoch that was interrupted in its log is trained already, and only evaluated again.
    assert rates == pytest.approx([rate for rate in expected for _ in range(STEPS)], rel=1e-6)


def test_the_rate_by_step_rises_within_the_warmup(train, make_student):
    rates = []
    optimization = RECIPE.optimization() | {"ema_decay": None, "precision": "float32", "schedule": "step"}
    with pytest.raises(StoppedError):
        train(make_student("lift"), lambda opt: rates.append(opt.param_groups[0]["lr"]), stop_after=1, **optimization)
    start, peak, warmup = RECIPE.warmup_lr, RECIPE.lr, RECIPE.warmup_epochs * STEPS
    assert rates == pytest.approx([start + (peak - start) * step / warmup for step in range(2 * STEPS)])


@pytest.mark.parametrize(
    ("strategy", "decayed"), [("baseline", False), ("uniform", False), ("lift", True), ("widen", True)]
)
def test_embeddings_are_decayed_where_the_release_decays_them(train, make_student, published, strategy, decayed):
    assert (strategy in published["decayed_embeddings"]) == decayed
    for name, recipe, expected in (("release", RECIPE, decayed), ("default", DEFAULT, False)):
        student, decays = make_student(strategy), {}

        def observe(optimizer, decays=decays):
            decays |= {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}

        train(student, observe, decay_embeddings=decays_embeddings(recipe, student), name=name)
        for key, parameter in student.named_parameters():
            embedding = key in ("pos_embed", "cls_token")
            matrix = parameter.ndim > 1 and (expected or not embedding)
            assert decays[id(parameter)] == (0.05 if matrix else 0.0), key


@pytest.mark.parametrize("start", ["initial", "first_step"])
def test_averaged_weights_start_where_the_recipe_says(train, make_student, start):
    decay, student = 0.75, make_student("lift")
    weights = [student.head.weight.detach().clone()]
    fitted = train(
        student, lambda _: weights.append(student.head.weight.detach().clone()), ema_decay=decay, ema_start=start
    )
    average, *later = weights if start == "initial" else weights[1:]
    for one in later:
        average = decay * average + (1 - decay) * one
    torch.testing.assert_close(fitted.ema_model.head.weight, average)
    assert len(weights) == 1 + 2 * STEPS


def test_the_releases_average_keeps_a_share_of_the_initial_weights():
    steps = RECIPE.epochs * (1_281_167 // RECIPE.global_batch)
    assert RECIPE.ema_start == "initial" and RECIPE.ema_decay**steps == pytest.approx(5.5e-4, rel=0.01)


@pytest.mark.parametrize(("recipe", "rounded"), [("autocast", False), ("rounded", True)])
def test_the_teacher_computes_in_the_recipes_precision(make_student, make_teacher, images, recipe, rounded):
    options = teacher_precision(RECIPE.model_copy(update={"teacher_precision": recipe}))
    teacher, student = make_teacher(), make_student("lift")
    teacher.pretrained_cfg |= {key: student.pretrained_cfg[key] for key in ("mean", "std")}
    objective = {"alpha": 0.9, "tau": 1.0, "feature": "mse", "feature_weight": 0.2}
    task = create_task(student, teacher, **objective, label_smoothing=0.0, device=CPU, **options)
    dtypes = {parameter.dtype for parameter in task.teacher.parameters()}
    assert dtypes == {torch.bfloat16 if rounded else torch.float32}

    with torch.no_grad():
        losses = task.eval()(images, torch.zeros(len(images), dtype=torch.long))
        logits, student_map = forward_with_map(student, images)
        if rounded:
            taught = forward_with_map(make_teacher().bfloat16(), images.bfloat16())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                taught = forward_with_map(teacher, images)
    teacher_logits, teacher_map = (output.float() for output in taught)
    torch.testing.assert_close(losses["feature_loss"], (student_map - teacher_map).square().mean())
    divergence = F.kl_div(logits.log_softmax(1), teacher_logits.log_softmax(1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(losses["kd_loss"], divergence)


@pytest.mark.parametrize("feature", ["mse", "spectral"])
def test_a_student_wider_than_its_teacher_is_pooled(make_student, teacher, images, feature, published):
    assert published["distillation"]["wider_student"] == "pooled"
    student = make_student("lift", lift_width=160)  # the teacher has 96 channels
    objective = Objective(alpha=0.0, tau=1.0, feature=feature, feature_weight=0.2, wider="pool")
    check_compatible(student, teacher, 8, feature=objective.refuses_wider)
    with pytest.raises(UserError, match="narrower"):
        check_compatible(student, teacher, 8, feature=objective.model_copy(update={"wider": "refuse"}).refuses_wider)
    task = create_task(student, teacher, **objective.model_dump(), label_smoothing=0.1, device=CPU)
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
