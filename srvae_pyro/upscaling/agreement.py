"""Answers that agree with their question in every pixel, of models whose likelihood is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.distributions.block_averages import agreeing
from srvae_pyro.models import SRVAE
from srvae_pyro.pixels import luma

__all__ = ["agreeing_answer", "gray_answer", "is_exact", "rounded"]

ROWS = 64  # of the question at a time


def is_exact(model: SRVAE) -> bool:
    """Whether every x that the model draws for a y has d(x) = y."""
    return model.config.agrees


def agreeing_answer(x: Tensor, y: Tensor, passes: int = 1) -> Tensor:
    """A picture near x that becomes y if averaged ``passes`` times.

    What lies between x and y is settled first: the average of x that agrees with y.

    Args:
        x: levels that need not be whole, (..., C, 2**passes h, 2**passes w).
        y: uint8 levels (..., C, h, w).
        passes: how often x is halved to become y.

    Returns:
        uint8, of x's shape.
    """
    if passes > 1:
        halved = F.avg_pool2d(x.flatten(0, -3), 2).unflatten(0, x.shape[:-2])
        y = agreeing_answer(halved, y, passes - 1)
    out = torch.empty(x.shape, dtype=torch.uint8)
    # A few rows of a colour at a time: it takes many times the picture's memory.
    for colour in range(y.shape[-3]):
        for start in range(0, y.shape[-2], ROWS):
            rows = slice(2 * start, 2 * (start + ROWS))
            part = y[..., colour : colour + 1, start : start + ROWS, :]
            near = agreeing(x[..., colour : colour + 1, rows, :], part)
            out[..., colour : colour + 1, rows, :] = near.to(torch.uint8)
    return out


def gray_answer(x: Tensor, y: Tensor) -> Tensor:
    """The luma of an answer (3, H, W) to a gray y (3, h, w), in agreement with y: gray, (3, H, W).

    The luma of blocks that agree in every colour is at most two levels a pixel from agreeing.
    """
    return agreeing_answer(luma(x), y[:1]).expand_as(x)


def rounded(x: Tensor, model: SRVAE, y: Tensor, passes: int = 1) -> Tensor:
    """Levels x (..., C, H, W) as uint8, in agreement with y (..., C, h, w) if the model's do."""
    if is_exact(model):
        return agreeing_answer(x, y, passes)
    return x.round().clamp(0, 255).to(torch.uint8)
