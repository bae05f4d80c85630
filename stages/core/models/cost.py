"""What a model costs: trainable parameters and floating-point operations."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.core.models import students  # noqa: F401  registers the students with timm


def parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops(model: nn.Module, image_size: int) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two.

    Attention products are included: fused attention, which torch's counter does not count on every device, is
    switched off meanwhile.
    """
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    training = model.training
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        with FlopCounterMode(display=False) as counter:  # its hooks need gradients on
            model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
        model.train(training)
    return counter.get_total_flops()
