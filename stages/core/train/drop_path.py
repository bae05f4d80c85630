"""Drop path (stochastic depth) whose masks depend on seed, step and an image's place in the global batch alone.

timm's DropPath draws from the device's generator, in the order in which a process computes: its masks depend on how
many processes share a batch, on the micro-batches that each divides its part into, and on whether the model is
compiled. Here the masks of a whole global batch are drawn on the CPU before each step, and each process takes those of
its images.
"""

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from stages.core.models.blocks import DROP_PATH_CALLS
from stages.core.train.sampler import EpochSampler

DOMAIN = 0xD409  # keeps these draws apart from others of the same seed and number


class KeyedDropPath(DropPath):
    """timm's DropPath with masks that are set from outside, before each forward pass in training mode.

    Attributes:
        factors: what each image's path is multiplied by in the first call, the second, …, [calls, images]: 0 where it
            is dropped.
        calls: how often the module was called since the masks were set.
    """

    factors: Tensor
    calls: int

    def forward(self, x: Tensor) -> Tensor:
        """`x` [images, …], with the paths of some images set to 0 in training mode."""
        if not self.training:
            return x
        factors = self.factors[self.calls]
        self.calls += 1
        return x * factors.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


class DropPathMasks:
    """Draws the masks of all drop paths of a model, which it replaces, in place, by `KeyedDropPath`.

    Args:
        model: a timm model; one without drop path is left as it is, and nothing is ever drawn.
        sampler: which images of a global batch this process takes, and in which micro-batches.
        seed: of the masks.
    """

    def __init__(self, model: nn.Module, sampler: EpochSampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed
        self.paths: list[KeyedDropPath] = []
        for module in model.modules():
            if isinstance(module, DropPath) and module.drop_prob:
                module.__class__ = KeyedDropPath  # adds no parameters and no buffers
                self.paths.append(module)
        self.step: int | None = None  # that the masks are of
        self.factors = torch.empty(0)  # [paths, calls, this process's images of a global batch]

    def set(self, step: int, number: int) -> None:
        """Let the next forward pass use the masks of a step's micro-batch, counted from 0.

        This does not wait for the device.
        """
        if not self.paths:
            return
        if step != self.step:
            self.step, self.factors = step, self._draw(step)
        start = number * self.sampler.micro_batch
        for path, factors in zip(self.paths, self.factors, strict=True):
            path.factors = factors[:, start : start + self.sampler.micro_batch]
            path.calls = 0

    def _draw(self, step: int) -> Tensor:
        sampler, device = self.sampler, self.sampler.world.device
        shape = len(self.paths), DROP_PATH_CALLS, sampler.batch
        uniform = np.random.default_rng((self.seed, step, DOMAIN)).random(shape, dtype=np.float32)
        factors = torch.from_numpy(uniform[..., sampler.part.start : sampler.part.stop].copy())
        for path, own in zip(self.paths, factors, strict=True):
            keep = 1 - path.drop_prob
            own.copy_(own < keep)
            if keep > 0 and path.scale_by_keep:
                own /= keep
        return (factors.pin_memory() if device.type == "cuda" else factors).to(device, non_blocking=True)
