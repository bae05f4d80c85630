"""Training throughput against the textbook step: python tests/benchmarks/training.py --scale digits --out FILE.

Both train the same student with the same teacher on the same images, which are already on the device. Ours is
`stages.core.train.loop.fit_together` itself, with its task, optimizer, schedule and checks. The textbook step is that
of published distillation code: eager, unfused attention, fp16 autocast with a loss scaler on a GPU (float32 on a CPU),
the teacher under `no_grad`, `loss.item()` and a synchronisation with the device at each step. They can alternate
(--turns), so that a busy machine slows both. `--forms` measures our step in other forms beside it: the teacher's
talking heads in one kernel (`fused`, on a GPU) or as batched products (`batched`), else as ours; not compiled, with
either (`eager_fused`, `eager`), or with timm's talking heads (`timm_heads`). `--kernels 10` lists the ten costliest
kernels of the eager step.

Model FLOP utilisation is (3 × student's forward + teacher's forward) × images, relative to the rate of a large matrix
product measured in the same process. The bytes are the sum of what each operation of the eager step reads and writes,
relative to the rate of a large copy: fusion can lower them.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measuring
import timm
import torch
import torch.nn.functional as F
import yaml
from timm.task import TrainingTask
from timm.utils import ModelEmaV2
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.core.config import schema
from stages.core.distillation import task as objectives
from stages.core.losses.targets import feature_target
from stages.core.models.cost import flops
from stages.core.models.maps import forward_with_map
from stages.core.models.normalization import renormalization
from stages.core.models.talking_heads import batch_talking_heads
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train.loop import fit_together
from stages.core.train.optimization import PRECISIONS
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from stages.tools.compose import composed

SCALES = {
    "digits": {
        "teacher": {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 6, "init_values": 0.1},
        "base": {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 6, "num_heads": 3},
        "width": 96,
        "classes": 10,
        "batch": 64,
        "ema_decay": None,
    },
    "cifar100": {
        "teacher": {"img_size": 32, "patch_size": 4, "depth": 12, "num_heads": 6, "init_values": 0.1},
        "base": {"img_size": 32, "patch_size": 4},
        "width": 384,
        "classes": 100,
        "batch": 512,
        "ema_decay": None,
    },
    "imagenet": {
        "teacher": {},
        "base": {"img_size": 224},
        "width": 384,
        "classes": 1000,
        "batch": 512,
        "ema_decay": 0.99996,
    },
}
STUDENTS = {
    "baseline": ("deit_tiny_patch16_224", None),
    "lift": ("deit_tiny_lift_patch16_224", "lift_width"),
    "widen": ("deit_tiny_widelast_patch16_224", "widen_width"),
}
SMOOTHING, LR, DECAY = 0.1, 1e-4, 0.05
COUNTED = 8  # images in the step whose bytes are counted
# Forms of our step: whether it may be compiled, and the teacher's talking heads.
FORMS = {
    "fused": (True, "fused"),
    "batched": (True, "batched"),
    "eager_fused": (False, "fused"),
    "eager": (False, "batched"),
    "timm_heads": (False, "timm"),
}


class Resident:
    """The same images on the device at each step; records the seconds of each epoch, the device's work included."""

    def __init__(self, images: Tensor, labels: Tensor, steps: int) -> None:
        self.images, self.labels, self.steps = images, labels, steps
        self.sampler: Any = SimpleNamespace(batch=len(images), micro_batches=1, steps=steps)
        self.seconds: list[float] = []

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        measuring.wait(self.images.device)
        started = time.perf_counter()
        for _ in range(start, self.steps):
            yield self.images, self.labels
        measuring.wait(self.images.device)
        self.seconds.append(time.perf_counter() - started)


class NoCheckpoints:
    """Saves no checkpoint and finds none."""

    run, source = "benchmark", None

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any]) -> None:
        pass


def create_task(
    student: nn.Module, teacher: nn.Module, objective: schema.Objective, device: torch.device, precision: str
) -> TrainingTask:
    frozen = FrozenTeacher(teacher, device=device, dtype=PRECISIONS[precision])
    return objectives.create_task(student, frozen, objective, label_smoothing=SMOOTHING, device=device)


def make_recipe(**changes: Any) -> schema.Recipe:
    """A recipe without warmup, clipping and augmentation that counts."""
    default = schema.Recipe.model_validate(yaml.safe_load(composed())["recipe"])
    plain = {"lr": LR, "weight_decay": DECAY, "warmup_epochs": 0, "warmup_lr": 0.0, "min_lr": 0.0, "clip_grad": None}
    return default.model_copy(update={**plain, **changes})


def ours(
    student: nn.Module,
    teacher: nn.Module,
    objective: schema.Objective,
    batches: Resident,
    options: argparse.Namespace,
    *,
    compiled: bool,
) -> list[float]:
    """Seconds of each epoch of `fit_together` but the first, which warms up."""
    device = batches.images.device
    training = Training(
        create_task(student, teacher, objective, device, options.precision),
        NoCheckpoints(),  # type: ignore[arg-type]
        make_recipe(epochs=options.rounds + 1, precision=options.precision, ema_decay=options.ema_decay),
        batches.sampler,
        seed=0,
        world=World(0, 1, device),
        compiled=compiled,
    )
    fit_together([training], batches, [(batches.images[:2], batches.labels[:2])])  # type: ignore[arg-type]
    return batches.seconds[1:]


def textbook(
    student: nn.Module, teacher: nn.Module, objective: schema.Objective, batches: Resident, options: argparse.Namespace
) -> list[float]:
    """Seconds of each epoch of the textbook step but the first, which warms up."""
    device = batches.images.device
    for module in (*student.modules(), *teacher.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    half = torch.autocast("cuda", torch.float16) if device.type == "cuda" else nullcontext()
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=DECAY)
    averaged = ModelEmaV2(student, decay=options.ema_decay) if options.ema_decay else None
    renormalize = renormalization(student, teacher, device)
    student.train()
    teacher.eval()
    for epoch in range(options.rounds + 1):
        for images, labels in batches.epoch(epoch):
            optimizer.zero_grad()
            with half:
                logits, student_map = forward_with_map(student, images)
                with torch.no_grad():
                    teacher_logits, teacher_map = forward_with_map(teacher, renormalize(images))
                loss = (1 - objective.alpha) * F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
                if objective.alpha:
                    logs = (F.log_softmax(of / objective.tau, dim=1) for of in (logits, teacher_logits))
                    kd = F.kl_div(*logs, reduction="batchmean", log_target=True)
                    loss = loss + objective.alpha * objective.tau**2 * kd
                if objective.feature:
                    target = feature_target(teacher_map, student_map)
                    loss = loss + objective.feature_weight * F.mse_loss(student_map, target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if averaged is not None:
                averaged.update(student)
            if loss.item() != loss.item():
                raise SystemExit("the textbook step's loss is not finite")
            measuring.wait(device)
    return batches.seconds[1:]


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        if not view:
            tensors = (one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor))
            self.bytes += sum(one.numel() * one.element_size() for one in tensors)
        return out


def traffic(task: TrainingTask, images: Tensor, labels: Tensor, precision: str) -> int:
    """Bytes of one eager step's forward and backward pass, per image."""
    task.train()
    few = images[:COUNTED], labels[:COUNTED]
    autocast = torch.autocast(images.device.type, PRECISIONS[precision], enabled=precision != "float32")
    with Traffic() as counted:
        with autocast:
            loss = task(*few)["loss"]
        loss.backward()
    return counted.bytes // len(few[0])


def costliest(task: TrainingTask, images: Tensor, labels: Tensor, precision: str, count: int) -> list[dict[str, Any]]:
    """The kernels of one eager step's forward and backward pass that take most of the device's time, on a GPU.

    Returns:
        Of each: its name, how often it runs, its milliseconds, and its share of the time of all kernels.
    """
    task.train()
    autocast = torch.autocast(images.device.type, PRECISIONS[precision], enabled=precision != "float32")

    def step() -> None:
        with autocast:
            loss = task(images, labels)["loss"]
        loss.backward()
        measuring.wait(images.device)

    step()  # warms up
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        step()
    kernels = [one for one in profiled.key_averages() if one.self_device_time_total > 0]
    whole = sum(one.self_device_time_total for one in kernels)
    kernels.sort(key=lambda one: -one.self_device_time_total)
    return [
        {
            "kernel": one.key,
            "calls": one.count,
            "ms": round(one.self_device_time_total / 1e3, 3),
            "share": round(one.self_device_time_total / whole, 4),
        }
        for one in kernels[:count]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--objective", choices=("none", "mse", "softkd", "softkd_mse"), default="softkd_mse")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=20, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements")
    parser.add_argument("--turns", type=int, default=1, help="how often ours and the textbook's follow each other")
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=[], help="of our step, measured beside it")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="list the N costliest kernels (on a GPU)")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.device.type != "cuda" and (options.kernels or any("fused" in form for form in options.forms)):
        parser.error("--kernels and the fused forms need a CUDA device")
    scale: dict[str, Any] = SCALES[options.scale]
    options.ema_decay = scale["ema_decay"]
    options.precision = "bfloat16" if options.device.type == "cuda" else "float32"
    batch = options.batch or scale["batch"]
    objective = {
        "none": schema.Objective(alpha=0.0, tau=1.0, feature=None, feature_weight=0.0),
        "mse": schema.Objective(alpha=0.0, tau=1.0, feature="mse", feature_weight=0.2),
        "softkd": schema.Objective(alpha=0.9, tau=1.0, feature=None, feature_weight=0.0),
        "softkd_mse": schema.Objective(alpha=0.9, tau=1.0, feature="mse", feature_weight=0.2),
    }[options.objective]
    size = scale["base"]["img_size"]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).to(options.device)
    labels = torch.randint(scale["classes"], (batch,), generator=generator).to(options.device)

    compiled = machine.compiled(options.device)
    fused = machine.fused_talking_heads(options.device, PRECISIONS[options.precision])
    own_heads = "fused" if fused else "batched"
    rows = []
    for name in options.students:
        architecture, option = STUDENTS[name]
        own = {} if option is None else {option: scale["width"]}

        def make_models(architecture: str = architecture, own: dict[str, Any] = own) -> tuple[nn.Module, nn.Module]:
            torch.manual_seed(0)
            teacher = timm.create_model("cait_s24_224", num_classes=scale["classes"], **scale["teacher"])
            student = timm.create_model(architecture, num_classes=scale["classes"], **scale["base"], **own)
            return student.to(options.device), teacher.to(options.device).eval()

        student, teacher = make_models()
        operations = 3 * flops(student, size)
        if objective.alpha or objective.feature:
            operations += flops(teacher, size)
        task = create_task(student, teacher, objective, options.device, options.precision)
        found: dict[str, Any] = {"student": name, "flops_per_image": operations}
        found["eager_bytes_per_image"] = traffic(task, images, labels, options.precision)
        if options.kernels:
            batch_talking_heads(teacher)
            task = create_task(student, teacher, objective, options.device, options.precision)
            found["kernels"] = costliest(task, images, labels, options.precision, options.kernels)
        ways: dict[str, Callable[..., list[float]]] = {
            "ours": partial(ours, compiled=compiled),
            "textbook": textbook,
            **{form: partial(ours, compiled=FORMS[form][0] and compiled) for form in options.forms},
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        peaks: dict[str, float] = {}
        for _ in range(options.turns):
            for which, train in ways.items():
                student, teacher = make_models()
                heads = FORMS[which][1] if which in FORMS else own_heads if which == "ours" else "timm"
                if heads != "timm":
                    batch_talking_heads(teacher)  # as `folders.load` does
                os.environ["TALKING_HEADS"] = "fused" if heads == "fused" else "batched"
                if options.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(options.device)
                taken[which] += train(student, teacher, objective, Resident(images, labels, options.steps), options)
                if options.device.type == "cuda":
                    peaks[which] = round(torch.cuda.max_memory_allocated(options.device) / 2**30, 2)
                torch.compiler.reset()
        for which, times in taken.items():
            rates = [batch * options.steps / one for one in times]
            measured = {"images_per_s": measuring.spread(rates, 1), "peak_memory_gib": peaks.get(which)}
            if which in FORMS:
                found.setdefault("forms", {})[which] = measured
            else:
                found[which] = measured
        rows.append(found)
    dtype = PRECISIONS[options.precision]
    peak = measuring.matrix_peak(options.device, dtype)
    for found in rows:
        for which in ("ours", "textbook"):
            rate = found[which]["images_per_s"]["median"]
            found[which]["utilisation"] = round(rate * found["flops_per_image"] / peak, 4)
    measuring.save(
        options.out,
        "training",
        {
            "scale": options.scale,
            "device": options.device.type,
            "objective": options.objective,
            "batch": batch,
            "steps": options.steps,
            "precision": options.precision,
            "compiled": compiled,
            "max_autotune": compiled and os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE") == "1",
            "talking_heads": own_heads,
            "matrix_peak_flops_per_s": round(peak),
            "copy_peak_bytes_per_s": round(measuring.copy_peak(options.device)),
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
