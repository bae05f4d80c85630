"""`spectral`: the mean squared error of spatial frequencies (SpectralKD)."""

import torch
from torch import Tensor


def loss(student_map: Tensor, target: Tensor) -> Tensor:
    """SpectralKD: mean squared error between the real and imaginary parts of rfft2 over rows and columns.

    Orthonormal, in float32 (rfft2 does not accept bfloat16). By Parseval's theorem it differs from `mse` only in
    the weights of the half spectrum and in the number of values that the mean divides by.
    """
    difference = torch.fft.rfft2(student_map.float() - target.float(), norm="ortho")
    return torch.view_as_real(difference).square().mean()
