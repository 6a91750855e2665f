"""Images as blocks of 2x2 pixels with given rounded averages, and what is known before each pixel.

With y = (a + b + c + d + 2) >> 2, which is what the transform average2 computes, the sum of a
block's levels is one of at most four values. Expectations may stand for pixels, so levels need not
be whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PixelContext",
    "allowed_sums",
    "from_blocks",
    "interval_of",
    "levels_of",
    "next_pixel",
    "project_to_consistent",
    "rounded_average",
    "to_blocks",
]

LAST_LEVEL = 255
PIXELS = 4  # of a block


def to_blocks(x: Tensor) -> Tensor:
    """(..., C, 2h, 2w) to (..., 4, C, h, w): the pixels of each block, row by row."""
    parts = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (..., C, h, 2, w, 2)
    return parts.movedim((-3, -1), (-5, -4)).flatten(-5, -4)


def from_blocks(blocks: Tensor) -> Tensor:
    """The inverse of :func:`to_blocks`."""
    parts = blocks.unflatten(-4, (2, 2)).movedim((-5, -4), (-3, -1))
    return parts.flatten(-2, -1).flatten(-3, -2)


def rounded_average(levels: Tensor) -> Tensor:
    """Integer levels (..., 2h, 2w) to those of each block's rounded average, (..., h, w)."""
    rows = levels[..., ::2, :] + levels[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2] + 2) >> 2


def allowed_sums(y: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest sum of a block's levels whose rounded average is the level y."""
    return (4 * y - 2).clamp_min(0), (4 * y + 1).clamp_max(PIXELS * LAST_LEVEL)


def interval_of(y: Tensor, before: Tensor, pixel: int) -> tuple[Tensor, Tensor]:
    """The least and the largest level of a block's pixel that still allow a sum.

    Args:
        y: the block's rounded average, a level.
        before: the sum of the pixels before it.
        pixel: how many these are, 0 to 3.
    """
    least, most = allowed_sums(y)
    left = LAST_LEVEL * (PIXELS - 1 - pixel)
    return (least - before - left).clamp_min(0), (most - before).clamp_max(LAST_LEVEL)


def project_to_consistent(x: Tensor, y: Tensor) -> Tensor:
    """Levels near those of x whose blocks' rounded averages are y.

    A block whose sum is not allowed is shifted evenly, within 0 to 255, to the nearest that is;
    then its pixels are rounded down, and those with the largest remainders up, so many that the sum
    is the nearest whole number.

    Args:
        x: (..., C, 2h, 2w), levels that need not be whole.
        y: (..., C, h, w), whole levels.

    Returns:
        Whole levels of x's shape, float64.

    Example:
        >>> x = torch.tensor([[[10.6, 10.6], [10.4, 10.2]]])
        >>> project_to_consistent(x, torch.tensor([[[10]]]))
        tensor([[[11., 10.],
                 [10., 10.]]], dtype=torch.float64)
    """
    blocks = to_blocks(x.double()).clamp(0, LAST_LEVEL)
    least, most = (bound.unsqueeze(-4) for bound in allowed_sums(y.double()))
    for _ in range(PIXELS):  # each time all is done, or another pixel has reached its end
        total = blocks.sum(-4, keepdim=True)
        missing = total.clamp(least, most) - total
        if not missing.any():
            break
        free = torch.where(missing > 0, blocks < LAST_LEVEL, blocks > 0)
        share = missing / free.sum(-4, keepdim=True).clamp_min(1)
        blocks = torch.where(free, blocks + share, blocks).clamp(0, LAST_LEVEL)
    # Sums that are whole but for the last digits must not be cut down by one.
    blocks = (blocks * 2**20).round() / 2**20
    down = blocks.floor()
    remainder = blocks - down
    target = blocks.sum(-4, keepdim=True).round().clamp(least, most)
    up = target - down.sum(-4, keepdim=True)
    return from_blocks(down + (_ranks(remainder) < up))


def _ranks(blocks: Tensor) -> Tensor:
    """Each pixel's place among those of its block, the largest's 0; of equal ones the first's.

    (..., 4, C, h, w) to uint8 of that shape. By comparing each with each, which takes a fortieth of
    the time of sorting.
    """
    pixels = blocks.unbind(-4)
    ranks = []
    for i, pixel in enumerate(pixels):
        rank = torch.zeros_like(pixel, dtype=torch.uint8)
        for j, other in enumerate(pixels):
            if j != i:
                rank += other >= pixel if j < i else other > pixel
        ranks.append(rank)
    return torch.stack(ranks, -4)


NEAR = 1e-3  # of a level: rounding in float32 is far below, expectations seldom fall within


class PixelContext(NamedTuple):
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
) -> PixelContext:
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
    return PixelContext(*interval_of(y, before, count), left, expected)


def levels_of(image: Tensor) -> Tensor:
    """The levels of an image in [0, 1], whole where it is on the grid."""
    levels = LAST_LEVEL * image
    whole = levels.round()
    return torch.where((levels - whole).abs() < NEAR, whole, levels)
