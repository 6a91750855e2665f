"""Quality of upscaled images: PSNR, SSIM, and how outputs differ pixel by pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.models import SRVAE
from srvae_pyro.upscaling.tiling import Levels, bands
from srvae_pyro.upscaling.upscaler import downscaled_rows

CAP = 100.0  # dB: what an exact image counts; one level wrong in a 32x32 image is below 90
WINDOW = 11  # pixels a side of SSIM's Gaussian window


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 images (..., C, H, W), one each: (...).

    Of the mean squared error over pixels and colours; equal images count as 100 dB.
    """
    return _decibels(_squares(a, b).mean(dim=(-3, -2, -1), dtype=torch.float64))


def lr_psnr(model: SRVAE, x: Levels, y: Levels, passes: int = 1) -> float:
    """How well an output x is consistent with its input y: the PSNR of d(x) against y, in dB.

    A band of rows at a time.
    """
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in bands(y.shape):
        small = downscaled_rows(model, x, start, stop, passes)
        total += _squares(small, y.rows(start, stop)).sum(dtype=torch.float64)
    return _decibels(total / math.prod(y.shape)).item()


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square()


def _decibels(error: Tensor) -> Tensor:
    apart = (10 * torch.log10(255**2 / error)).clamp_max(CAP - 1e-6)
    return torch.where(error == 0, CAP, apart)


def shown_psnr(decibels: float, digits: int = 1) -> str:
    return "exact" if decibels >= CAP else f"{decibels:.{digits}f}"


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 images (B, C, H, W), averaged over colours: (B).

    As published: a Gaussian window of 11x11 pixels and standard deviation 1.5, where it lies within
    the image. The same number as scikit-image's ``structural_similarity`` with these settings,
    a batch at a time.

    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004,
        IEEE Transactions on Image Processing 13(4), section III.B.
    """
    places = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    window = torch.exp(-0.5 * (places / 1.5) ** 2)
    window = window / window.sum()

    def local(x: Tensor) -> Tensor:
        flat = F.conv2d(x.flatten(0, 1)[:, None], window.reshape(1, 1, 1, -1))
        return F.conv2d(flat, window.reshape(1, 1, -1, 1)).unflatten(0, x.shape[:2])[:, :, 0]

    a, b = a.double(), b.double()
    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (likeness / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean(dim=(1, 2, 3))


class PixelStatistics:
    """Mean and standard deviation of images, pixel by pixel, from running sums."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = torch.zeros((), dtype=torch.int32)

    def add(self, x: Tensor) -> None:
        levels = x.int()
        self.count += 1
        self.sum = self.sum + levels
        self.squares = self.squares + levels.square()

    def mean(self) -> Tensor:
        """The mean (C, H, W), not rounded, in float64."""
        return self.sum.double() / self.count

    def deviation(self) -> Tensor:
        """The standard deviation (1, H, W) in levels: the root of the variance over colours."""
        variance = (self.squares - self.mean() * self.sum) / max(self.count - 1, 1)
        return variance.clamp_min(0).mean(dim=0, keepdim=True).sqrt()
