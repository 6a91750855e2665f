"""The pixels of a 2x2 block one after the other: what is known before each, where it is expected.

Levels throughout. A block's pixels are counted row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from srvae_pyro.distributions.blocks import PIXELS, interval_of

__all__ = ["Next", "location_of", "next_pixel"]


class Next(NamedTuple):
    """What the pixels of a block that are known say of the next.

    Attributes:
        low: its least level that still allows the block's average.
        high: its largest.
        left: what is left for each of the remaining pixels, on average.
        expected: that, and the linear terms in the earlier pixels less y.
    """

    low: Tensor
    high: Tensor
    left: Tensor
    expected: Tensor


def next_pixel(pixels: Sequence[Tensor], y: Tensor, weights: Tensor) -> Next:
    """What is known of the pixel after ``pixels``, all colours at once.

    Args:
        pixels: the earlier pixels of the blocks, up to 3, (..., C, h, w) each.
        y: the blocks' rounded averages, of the same shape.
        weights: of each earlier pixel for each later one, in the order (1, 0), (2, 0), (2, 1),
            (3, 0), (3, 1), (3, 2), (..., 6, C, h, w).
    """
    count = len(pixels)
    before = sum(pixels, y.new_zeros(()))
    left = y - (before - count * y) / (PIXELS - count)
    expected = left
    for j, pixel in enumerate(pixels):
        expected = expected + weights[..., count * (count - 1) // 2 + j, :, :, :] * (pixel - y)
    return Next(*interval_of(y, before, count), left, expected)


def location_of(base: Tensor, weights: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
    """The location of a colour, given the pixel's earlier colours.

    Args:
        base: the location but for them.
        weights: for the second colour of the first, for the third of the first and of the second.
        residuals: of the earlier colours, each less what was left for it.
    """
    start = max(len(residuals) - 1, 0)
    for weight, residual in zip(weights[start:], residuals, strict=False):
        base = base + weight * residual
    return base
