"""Images normalised for one model, normalised for another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.base.errors import UserError


def renormalization(student: nn.Module, teacher: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from images normalised for the student to the same images normalised for the teacher.

    timm's DistillationTeacher does this too, but compares tensors at every call, which waits for the device.
    """
    (mean, std), (teacher_mean, teacher_std) = (
        [torch.tensor(model.pretrained_cfg[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std")]  # type: ignore[index]
        for model in (student, teacher)
    )
    if torch.equal(mean, teacher_mean) and torch.equal(std, teacher_std):
        return lambda images: images
    scale, shift = std / teacher_std, (mean - teacher_mean) / teacher_std
    return lambda images: images * scale + shift


@torch.no_grad()
def check_preprocessing(teacher: nn.Module, image_size: int) -> None:
    """Check that a teacher can be shown the students' images, normalised for it.

    The rest of its preprocessing may differ: crop and interpolation are those of the students in training, and its own
    where it is evaluated itself or its features are extracted.

    Args:
        teacher: a timm model.
        image_size: height and width of the students' images.

    Raises:
        UserError: it takes images of another size only, or its mean and std are not of three channels from 0 to 1.
    """
    config: dict[str, Any] = teacher.pretrained_cfg  # type: ignore[assignment]
    for key, limits in (("mean", "0 to 1"), ("std", "above 0 to 1")):
        values = tuple(config[key])
        if len(values) != 3 or not all(0 <= value <= 1 for value in values) or (key == "std" and 0 in values):
            raise UserError(
                f"the teacher's {key} is {values}, not three numbers from {limits}, as for colours from 0 to 1; "
                "correct it in the config.json beside its weights, or choose another teacher"
            )
    training = teacher.training
    try:
        teacher.eval()(torch.zeros(1, 3, image_size, image_size, device=next(teacher.parameters()).device))
    except (AssertionError, RuntimeError):
        own = "×".join(map(str, config["input_size"][1:]))
        raise UserError(
            f"the teacher takes images of {own}, but dataset.image_size is {image_size}; choose a teacher for "
            f"{image_size}×{image_size}, or set teacher.model_args.img_size to {image_size}"
        ) from None
    finally:
        teacher.train(training)
