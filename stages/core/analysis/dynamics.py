"""What the tokens of every block of a model are like: frequency intensity, entropy, activations and gradients.

The four measures of "Distillation Dynamics" (2025-11, by the authors of the paper), which follow models over depth and
through training. Tokens are all that leave a block, class and register tokens included.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.models.blocks import as_tokens, recorded_blocks

BINS = 100  # of the histogram of a token's channel values
MEASURES = ("frequency_intensity", "token_entropy", "activation", "gradient")


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of all blocks, between which values are counted in bins."""

    low: float
    high: float


def frequency_intensity(tokens: Tensor) -> Tensor:
    """|DFT over channels| / C of each token, averaged over frequencies.

    Args:
        tokens: [images, tokens, channels].

    Returns:
        [images, tokens].
    """
    return torch.fft.fft(tokens, dim=-1).abs().mean(-1) / tokens.shape[-1]


def token_entropy(tokens: Tensor, limits: Range) -> Tensor:
    """Shannon entropy, in bits, of each token's channel values in 100 equal bins.

    Args:
        tokens: [images, tokens, channels].
        limits: the ends of the bins; a value at the upper end is in the last bin.

    Returns:
        [images, tokens], from 0 to log2(100).
    """
    width = (limits.high - limits.low) / BINS
    if width <= 0:
        return torch.zeros(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
    bins = ((tokens - limits.low) / width).floor().clamp(0, BINS - 1).long()
    counts = torch.zeros(*tokens.shape[:2], BINS, dtype=tokens.dtype, device=tokens.device)
    counts.scatter_add_(2, bins, torch.ones_like(tokens))
    return torch.special.entr(counts / tokens.shape[2]).sum(-1) / torch.log(torch.tensor(2.0))


def measure(model: Any, batches: Sequence[Any] | Iterable[Any], device: torch.device) -> list[dict[str, float]]:
    """The four measures of every block, averaged over images and tokens.

    Two passes: the first finds the range of values for the entropy's bins.

    Args:
        model: a timm model with `feature_info`, on `device`.
        batches: (images [batch, 3, height, width], labels), to be gone through twice.
        device: where the model is.

    Returns:
        For each block: block (from 0), frequency_intensity, token_entropy (bits), activation (mean absolute value) and
        gradient (mean absolute value of the derivative of the true class's logit).
    """
    model.eval()
    channels = [info["num_chs"] for info in model.feature_info]
    limits = _range(model, batches, device)
    sums = torch.zeros(len(channels), len(MEASURES), dtype=torch.float64)
    count = 0
    with recorded_blocks(model) as outputs:
        for images, labels in batches:
            scores = model(images.to(device)).gather(1, labels.to(device)[:, None]).sum()
            gradients = torch.autograd.grad(scores, outputs)
            for block, (output, gradient) in enumerate(zip(outputs, gradients, strict=True)):
                tokens = as_tokens(output.detach(), channels[block]).float()
                found = (
                    frequency_intensity(tokens),
                    token_entropy(tokens, limits),
                    tokens.abs().mean(-1),
                    as_tokens(gradient, channels[block]).float().abs().mean(-1),
                )
                sums[block] += torch.stack([one.double().mean(1).sum() for one in found]).cpu()
            count += len(images)
    return [
        {"block": block, **dict(zip(MEASURES, row, strict=True))} for block, row in enumerate((sums / count).tolist())
    ]


@torch.no_grad()
def _range(model: nn.Module, batches: Iterable[Any], device: torch.device) -> Range:
    low, high = float("inf"), float("-inf")
    with recorded_blocks(model) as outputs:
        for images, _ in batches:
            model(images.to(device))
            low = min(low, *(output.min().item() for output in outputs))
            high = max(high, *(output.max().item() for output in outputs))
    return Range(low, high)
