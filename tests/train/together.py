"""Losses and gradients of one batch over several processes; apart from the tests, so that workers import little."""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from stages.core.config.schema import Objective
from stages.core.distillation.task import create_task
from stages.core.runtime.distributed import joined
from stages.core.train.teacher import FrozenTeacher

IMAGES = 8  # of the batch that the processes share
SHAPE = {"img_size": 8, "patch_size": 2, "depth": 2, "num_classes": 10}


def small_model(architecture: str, **arguments: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, pretrained_cfg_overlay={"input_size": (3, 8, 8)}, **SHAPE, **arguments)


def write_gradients(out: Path, definitions: Mapping[str, Objective]) -> None:
    """Write, for each objective, the mean loss of the batch and the gradients that DDP gives."""
    torch.set_num_threads(1)
    images = torch.randn(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(IMAGES)
    found: dict[str, dict[str, Tensor]] = {}
    with joined() as world:
        teacher = small_model("cait_s24_224", embed_dim=96, num_heads=6).eval()
        own = list(world.share(IMAGES))
        for name, objective in definitions.items():
            student = small_model("deit_tiny_patch16_224", embed_dim=48, num_heads=3)
            frozen = FrozenTeacher(teacher, objective.blocks, device=world.device)
            # DDP gives all processes the projector and the statistics of the first.
            options = {"label_smoothing": 0.1, "device": world.device, "seed": world.rank}
            task = create_task(student, frozen, objective, **options).train()
            task.balance([((1 + world.rank) * images, labels)])
            trained = dict(task.get_trainable_module().named_parameters())
            if world.size > 1:
                task.prepare_distributed()
            loss = task(images[own], labels[own])["loss"]
            loss.backward()
            gradients = {key: value.grad for key, value in trained.items() if value.grad is not None}
            found[name] = {"loss": world.mean(loss.detach()), **gradients}
        if world.is_main:
            torch.save(found, out)
