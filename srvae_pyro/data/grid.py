"""The grid of 8-bit pictures: levels 0..255 as floats k/255 in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_levels", "to_unit"]


def to_unit(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Levels 0..255 of any shape and type as floats k/255 in [0, 1].

    A level always becomes the same float, whatever made it: a data set or a transform.
    """
    levels = levels.to(dtype)
    # Divided by a tensor: a Python number would be multiplied by as 1/255 on CUDA, and then
    # 126 of the 256 values differ in their last bit from the CPU's.
    return levels / levels.new_full((), 255)


def to_levels(images: Tensor) -> Tensor:
    """Floats on the grid k/255, any shape, as their levels k in int32.

    Half precision does not resolve the grid; pass float32 or float64.
    """
    if images.dtype != torch.float64:
        images = images.float()
    return torch.round(images * 255).to(torch.int32)
