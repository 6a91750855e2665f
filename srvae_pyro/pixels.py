"""8-bit pixel values: levels 0..255, the same as floats k/255 in [0, 1], luma, interpolation."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LAST_LEVEL = 255


def to_unit(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Levels 0..255 of any shape and type as floats k/255 in [0, 1].

    A level always becomes the same float, whatever made it: a data set or a transform.
    """
    levels = levels.to(dtype)
    # Divided by a tensor: a Python number would be multiplied by as 1/255 on CUDA, and then
    # 126 of the 256 values differ in their last bit from the CPU's.
    return levels / levels.new_full((), 255)


def to_levels(images: Tensor) -> Tensor:
    """Floats on the grid k/255, any shape, as their levels k in int32; not of half precision."""
    if images.dtype != torch.float64:
        images = images.float()
    return torch.round(images * 255).to(torch.int32)


def luma(levels: Tensor) -> Tensor:
    """Luma (..., 1, H, W) of integer RGB levels (..., 3, H, W), in int32, as Pillow's "L".

    ITU-R 601-2 in 16-bit fixed point.
    """
    red, green, blue = levels.to(torch.int32).split(1, dim=-3)
    # 0.299, 0.587 and 0.114 in 16 bits, rounded half up.
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def interpolated(
    levels: Tensor, factor: int, method: Image.Resampling = Image.Resampling.BICUBIC
) -> Tensor:
    """Uint8 levels (B, C, h, w) enlarged by Pillow: (B, C, factor h, factor w), on the CPU."""
    size = (factor * levels.shape[-1], factor * levels.shape[-2])
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, method))
        for plane in levels.cpu().flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, levels.shape[:2])
