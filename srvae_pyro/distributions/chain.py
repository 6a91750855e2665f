"""The pixels of a 2x2 block one after the other: what is known before each, where it is expected.

Levels throughout, which need not be whole where expectations stand for pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from srvae_pyro.distributions.blocks import LAST_LEVEL, PIXELS, interval_of

__all__ = ["Next", "levels_of", "next_pixel"]

NEAR = 1e-3  # of a level: rounding in float32 is far below, expectations seldom fall within


class Next(NamedTuple):
    """What the pixels of a block that are known say of the next.

    Attributes:
        low: its least level that still allows the block's average.
        high: its largest.
        left: what is left for it: its share of the remaining pixels, or its estimate and its share
            of what these have more than was estimated.
        expected: that, and the linear terms in the earlier pixels less y, or their estimates.
    """

    low: Tensor
    high: Tensor
    left: Tensor
    expected: Tensor


def next_pixel(
    pixels: Sequence[Tensor], y: Tensor, weights: Tensor, estimates: Sequence[Tensor] = ()
) -> Next:
    """What is known of the pixel after ``pixels``, all colours at once.

    Args:
        pixels: the earlier pixels of the blocks, n = 0 to 3 of them, (..., C, h, w) each.
        y: the blocks' rounded averages, of the same shape.
        weights: of each earlier pixel, (..., n, C, h, w).
        estimates: of the blocks' pixels, of y's shape, 4 times y in all; without, y itself.
    """
    count = len(pixels)
    before = sum(pixels, y.new_zeros(()))
    estimates = estimates or [y] * PIXELS
    # What the earlier pixels have more than was estimated the remaining ones lack, evenly.
    more = before - sum(estimates[:count], y.new_zeros(()))
    left = estimates[count] - more / (PIXELS - count)
    expected = left
    each = zip(pixels, weights.unbind(-4), estimates[:count], strict=True)
    for pixel, weight, estimate in each:
        expected = expected + weight * (pixel - estimate)
    return Next(*interval_of(y, before, count), left, expected)


def levels_of(image: Tensor) -> Tensor:
    """The levels of an image in [0, 1], whole where it is on the grid."""
    levels = LAST_LEVEL * image
    whole = levels.round()
    return torch.where((levels - whole).abs() < NEAR, whole, levels)
