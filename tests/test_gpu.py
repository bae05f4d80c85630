"""What only a GPU can show; run on one with `pytest -m gpu`."""

import copy

import pytest
import torch
from timm.models.cait import TalkingHeadAttn
from torch.nn.utils import parameters_to_vector

from stages.core.config.feature_losses import feature_losses
from stages.core.data import batches as data_batches
from stages.core.data.batches import evaluation_batches
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList
from stages.core.distillation.task import create_task
from stages.core.models.talking_heads import batch_talking_heads, fuse_talking_heads
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.device_augmentation import ResidentBatches
from stages.core.train.drop_path import DropPathMasks
from stages.core.train.loop import fit_together
from stages.core.train.sampler import EpochSampler
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from tests.sections import make_augment, make_objective, make_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]
DEVICE = "cuda:0"
NOISE = 2e-2  # relative, between the losses of two bfloat16 runs of one seed: atomic additions have no fixed order
AUGMENT = {"ratio": [0.8, 1.25], "auto_augment": None, "random_erasing": 0.25, "interpolation": "bilinear"}
RESIDENT = make_augment(**AUGMENT, on_device=True, padding=1)
LOADED = make_augment(**AUGMENT)


class InterruptedTrainingError(Exception):
    pass


class Asynchronous:
    """Training batches during which, from the second one on, an operation that waits for the device is an error."""

    def __init__(self, batches):
        self.batches, self.sampler = batches, batches.sampler

    def epoch(self, number, start=0):
        try:
            for position, batch in enumerate(self.batches.epoch(number, start)):
                if position == 1:  # an epoch's draws are copied before its first batch
                    torch.cuda.set_sync_debug_mode("error")
                yield batch
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def listed(tmp_path, make_split):
    split = scan(make_split(tmp_path / "train", images=24))
    return ImageList(tmp_path / "train", list(split.files), split.labels())


@pytest.fixture
def make_task(make_student, make_teacher):
    """A small student with a small teacher, on a device."""

    def make(device, feature="mse", dtype=torch.float32, strategy="widen"):
        device = torch.device(device)
        student, teacher = make_student(strategy).to(device), make_teacher().to(device)
        frozen = FrozenTeacher(teacher, device=device, dtype=dtype)
        return create_task(student, frozen, make_objective(feature, alpha=0.5), label_smoothing=0.1, device=device)

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 3, 8, 8, generator=generator), torch.randint(10, (32,), generator=generator)


@pytest.fixture
def train(tmp_path, listed, make_student, make_teacher):
    def run(
        root, *, precision="bfloat16", compiled=False, stop_after=None, resident=True, watch=lambda batches: batches
    ):
        device = torch.device(DEVICE)
        world = World(0, 1, device)
        student = make_student("widen", drop_path_rate=0.1).to(device)
        frozen = FrozenTeacher(make_teacher().to(device), device=device, dtype=torch.bfloat16)
        task = create_task(student, frozen, make_objective(alpha=0.5), label_smoothing=0.1, device=device)
        sampler = EpochSampler(len(listed.files), 0, batch=24, world=world)
        if resident:
            batches = ResidentBatches(listed, student, sampler, augment=RESIDENT, workers=0)
        else:
            batches = TrainingBatches(listed, student, sampler, augment=LOADED, workers=2)
        validation = evaluation_batches(listed, student, batch=24, workers=0, world=world)

        def log(metrics):
            if metrics["epoch"] == stop_after:
                raise InterruptedTrainingError

        with CheckpointFolder(tmp_path / root, "widen", {}, {}) as checkpoints:
            recipe = make_recipe(epochs=4, precision=precision)
            options = {"seed": 0, "world": world, "compiled": compiled, "log": log}
            training = Training(task, checkpoints, recipe, sampler, **options)
            fit_together([training], watch(batches), validation)
        return [metrics["train_loss"] for metrics in training.state.history]

    return run


def step(task, images, labels, autocast=False):
    """Loss and gradients of one step."""
    task.train()
    images, labels = images.to(DEVICE), labels.to(DEVICE)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        loss = task(images, labels)["loss"]
    loss.backward()
    parameters = [parameter.grad.float() for parameter in task.parameters() if parameter.grad is not None]
    return loss.detach().float(), parameters_to_vector(parameters)


@pytest.mark.parametrize("feature", feature_losses())
def test_a_bfloat16_step_is_the_float32_step_but_for_rounding(make_task, batch, feature):
    loss, gradient = step(make_task(DEVICE, feature), *batch)
    rounded_loss, rounded = step(make_task(DEVICE, feature, torch.bfloat16), *batch, autocast=True)
    torch.testing.assert_close(rounded_loss, loss, rtol=2e-2, atol=0)
    assert torch.cosine_similarity(rounded, gradient, dim=0) > 0.99


@pytest.mark.parametrize("strategy", ["baseline", "lift", "widen"])
def test_a_compiled_step_is_the_eager_step(make_task, batch, strategy):
    loss, gradient = step(make_task(DEVICE, strategy=strategy), *batch)
    compiled = make_task(DEVICE, strategy=strategy)
    compiled.compile(fullgraph=True)
    found_loss, found = step(compiled, *batch)
    torch.testing.assert_close(found_loss, loss, rtol=1e-4, atol=0)
    assert torch.cosine_similarity(found, gradient, dim=0) > 0.9999


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("resident", [True, False])
def test_no_step_waits_for_the_device(train, resident, precision):
    """Batch, drop path, both models, loss, gradients, clipping, optimizer and averaged weights."""
    losses = train("asynchronous", precision=precision, resident=resident, watch=Asynchronous)
    assert losses[-1] < losses[0]
    assert torch.cuda.get_sync_debug_mode() == 0


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("autocast", [False, True], ids=["rounded weights", "autocast"])
@pytest.mark.parametrize(
    ("heads", "tokens"), [(4, 196), (8, 196), (6, 576), (8, 576), (16, 784), (6, 64), (6, 16), (3, 5)]
)
def test_the_kernel_of_talking_heads_rounds_no_more_than_batched_products(heads, tokens, autocast, compiled):
    torch.manual_seed(0)
    attention = TalkingHeadAttn(heads * 48, num_heads=heads, qkv_bias=True).eval().requires_grad_(False)
    for weights in attention.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    x = torch.randn(4, tokens, heads * 48)
    if not autocast:
        attention, x = attention.bfloat16(), x.bfloat16()
    exact = copy.deepcopy(attention).double()(x.double())
    errors = []
    for replace in (batch_talking_heads, fuse_talking_heads):
        model = copy.deepcopy(attention).to(DEVICE)
        replace(model)
        if compiled:
            model.compile(fullgraph=True)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            found = model(x.to(DEVICE))
        assert found.dtype == torch.bfloat16
        errors.append(((found.cpu().double() - exact).norm() / exact.norm()).item())
    assert errors[1] < min(1.1 * errors[0], 0.02)


def test_a_teacher_that_fuses_its_heads_gives_the_maps_of_one_that_does_not(make_teacher, monkeypatch, batch):
    maps = []
    device, model = torch.device(DEVICE), make_teacher().to(DEVICE)
    batch_talking_heads(model)
    for form in ("batched", "fused"):
        monkeypatch.setenv("TALKING_HEADS", form)
        teacher = FrozenTeacher(model, device=device, dtype=torch.bfloat16)
        maps += teacher.output(batch[0].to(device)).maps
        assert type(teacher.bare[0].blocks[0].attn).__name__ == f"{form.capitalize()}TalkingHeadAttn"
    torch.testing.assert_close(maps[1], maps[0], rtol=2e-2, atol=2e-2)


def test_float32_is_computed_in_full(monkeypatch):
    monkeypatch.setenv("DEVICE", DEVICE)
    device = machine.device()
    generator = torch.Generator().manual_seed(0)
    images, kernels = (torch.randn(shape, generator=generator) for shape in ((8, 64, 32, 32), (64, 64, 3, 3)))
    exact = torch.nn.functional.conv2d(images.double(), kernels.double())
    for found, expected in (
        (torch.nn.functional.conv2d(images.to(device), kernels.to(device)), exact),
        (images.to(device) @ images.to(device), images.double() @ images.double()),
    ):
        error = (found.cpu().double() - expected).norm() / expected.norm()
        assert error < 1e-5  # TF32's is about 3e-4


def test_drop_path_drops_the_paths_that_it_drops_on_the_cpu(make_student, batch):
    outputs = []
    for device in ("cpu", DEVICE):
        student = make_student("widen", drop_path_rate=0.5).to(device).train()
        sampler = EpochSampler(64, 0, batch=32, world=World(0, 1, torch.device(device)))
        DropPathMasks(student, sampler, 0).set(3, 0)
        outputs.append(student(batch[0].to(device)).detach().cpu())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


def test_images_to_evaluate_on_wait_in_pinned_memory(listed, make_student, monkeypatch):
    monkeypatch.setattr(data_batches, "HELD_BYTES", 0)
    world = World(0, 1, torch.device(DEVICE))
    loader = evaluation_batches(listed, make_student("widen"), batch=24, workers=2, world=world)
    assert all(images.is_pinned() and labels.is_pinned() for images, labels in loader)


def test_the_prefetching_loader_normalises_as_on_the_cpu(listed, make_student):
    augment = LOADED.model_copy(update={"random_erasing": 0.0})

    def images(device):
        sampler = EpochSampler(len(listed.files), 0, batch=24, world=World(0, 1, torch.device(device)))
        batches = TrainingBatches(listed, make_student("widen"), sampler, augment=augment, workers=2)
        return torch.cat([found.cpu() for found, _ in batches.epoch(1)])

    torch.testing.assert_close(images(DEVICE), images("cpu"), rtol=1e-5, atol=1e-5)


def test_images_on_the_device_are_augmented_as_on_the_cpu(listed, make_student):
    def images(device):
        sampler = EpochSampler(len(listed.files), 0, batch=24, world=World(0, 1, torch.device(device)))
        batches = ResidentBatches(listed, make_student("widen"), sampler, augment=RESIDENT, workers=0)
        return torch.cat([found.cpu() for number in range(8) for found, _ in batches.epoch(number)])

    differences = (images(DEVICE) - images("cpu")).abs().amax((1, 2, 3))
    assert (differences < 1e-3).float().mean() > 0.99  # a side of a box may be rounded otherwise


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(train):
    whole = train("whole", precision="float32")
    with pytest.raises(InterruptedTrainingError):
        train("cut", precision="float32", stop_after=1)
    assert train("cut", precision="float32") == pytest.approx(whole, rel=1e-3)


def test_two_runs_of_one_seed_differ_by_noise_alone(train):
    first = train("first")
    assert first[-1] < first[0]
    assert train("second") == pytest.approx(first, rel=NOISE)


def test_a_compiled_run_learns_as_the_eager_one(train):
    assert train("compiled", compiled=True) == pytest.approx(train("eager"), rel=NOISE)
