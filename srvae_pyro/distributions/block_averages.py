"""Square blocks of pixels with given rounded averages, y = floor((sum + P / 2) / P) of P pixels.

Expectations may stand for pixels, so levels need not be whole.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from srvae_pyro.pixels import LAST_LEVEL


class PixelContext(NamedTuple):
    """Bounds and expectations of a block's next pixel given its known ones, (..., C, h, w) each."""

    low: Tensor  # the least level that still allows the block's average
    high: Tensor  # the largest
    left: Tensor  # its estimate, or y, plus its share of what the known pixels fell short of theirs
    expected: Tensor  # left, plus linear terms in the known pixels less their estimates, or y


@dataclass(frozen=True)
class Block:
    """Blocks of ``factor`` x ``factor`` pixels, numbered row by row, and their rounded averages."""

    factor: int

    @property
    def pixels(self) -> int:
        return self.factor**2

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of a block's pixels in drawing order, each the farthest from those before.

        In the plane that the blocks tile: of 2x2 the upper left, the lower right, the other two.
        """

        def distance(a: int, b: int) -> int:
            apart = (abs(x - y) for x, y in zip(divmod(a, side), divmod(b, side), strict=True))
            return sum(min(d, side - d) ** 2 for d in apart)

        side, order = self.factor, [0]
        while len(order) < self.pixels:
            rest = (pixel for pixel in range(self.pixels) if pixel not in order)
            order.append(max(rest, key=lambda p: min(distance(p, known) for known in order)))
        return tuple(divmod(pixel, side) for pixel in order)

    def split(self, x: Tensor) -> Tensor:
        """(..., C, f h, f w) to (..., P, C, h, w): the pixels of each block, row by row."""
        parts = x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor))
        return parts.movedim((-3, -1), (-5, -4)).flatten(-5, -4)  # of (..., C, h, f, w, f)

    def join(self, blocks: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        parts = blocks.unflatten(-4, (self.factor, self.factor)).movedim((-5, -4), (-3, -1))
        return parts.flatten(-2, -1).flatten(-3, -2)

    def groups(self, x: Tensor) -> list[Tensor]:
        """The pixels (..., C, h, w) of the blocks in drawing order, as views."""
        step = self.factor
        return [x[..., row::step, column::step] for row, column in self.places]

    def from_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`groups`."""
        at = dict(zip(self.places, groups, strict=True))
        return self.join(torch.stack([at[place] for place in sorted(at)], -4))

    def average(self, levels: Tensor) -> Tensor:
        """Integer levels (..., f h, f w) to those of each block's rounded average, (..., h, w)."""
        step = range(self.factor)
        rows = reduce(operator.add, (levels[..., i :: self.factor, :] for i in step))
        sums = reduce(operator.add, (rows[..., i :: self.factor] for i in step))
        sums = sums + self.pixels // 2
        bits = self.pixels.bit_length() - 1
        return sums >> bits if self.pixels == 1 << bits else sums // self.pixels

    def allowed_sums(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest sum of a block's levels whose rounded average is y."""
        least = self.pixels * y - self.pixels // 2
        most = self.pixels * y + (self.pixels - 1) // 2
        return least.clamp_min(0), most.clamp_max(self.pixels * LAST_LEVEL)

    def interval(self, y: Tensor, before: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """The least and largest level that allow y, after ``known`` pixels of sum ``before``."""
        least, most = self.allowed_sums(y)
        left = LAST_LEVEL * (self.pixels - 1 - known)
        return (least - before - left).clamp_min(0), (most - before).clamp_max(LAST_LEVEL)

    def next_pixel(
        self, known: Sequence[Tensor], y: Tensor, weights: Tensor, estimates: Sequence[Tensor] = ()
    ) -> PixelContext:
        """The context of the pixel after n known ones, (..., C, h, w) each, in drawing order.

        ``weights`` of the known pixels are (..., n, C, h, w); ``estimates`` of all P pixels have
        y's shape and average y, without them y itself.
        """
        count = len(known)
        before = sum(known, y.new_zeros(()))
        estimates = estimates or [y] * self.pixels
        # The other pixels share the known ones' excess over their estimates evenly.
        excess = before - sum(estimates[:count], y.new_zeros(()))
        left = estimates[count] - excess / (self.pixels - count)
        expected = left
        each = zip(known, weights.unbind(-4), estimates[:count], strict=True)
        for pixel, weight, estimate in each:
            expected = expected + weight * (pixel - estimate)
        return PixelContext(*self.interval(y, before, count), left, expected)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Whole levels near x (..., C, f h, f w) with rounded averages y (..., C, h, w), float64.

        Blocks are shifted evenly, within 0 to 255, to the nearest allowed sum. Then pixels are
        rounded down, and those with the largest remainders up, to the nearest whole sum.

        Example:
            >>> x = torch.tensor([[[10.6, 10.6], [10.4, 10.2]]])
            >>> Block(2).project(x, torch.tensor([[[10]]]))
            tensor([[[11., 10.],
                     [10., 10.]]], dtype=torch.float64)
        """
        blocks = self.split(x.double()).clamp(0, LAST_LEVEL)
        least, most = (bound.unsqueeze(-4) for bound in self.allowed_sums(y.double()))
        for _ in range(self.pixels):  # each pass ends it, or clamps another pixel
            total = blocks.sum(-4, keepdim=True)
            missing = total.clamp(least, most) - total
            if not missing.any():
                break
            free = torch.where(missing > 0, blocks < LAST_LEVEL, blocks > 0)
            share = missing / free.sum(-4, keepdim=True).clamp_min(1)
            blocks = torch.where(free, blocks + share, blocks).clamp(0, LAST_LEVEL)
        # Rounding errors must not lower whole sums by one.
        blocks = (blocks * 2**20).round() / 2**20
        down = blocks.floor()
        remainder = blocks - down
        target = blocks.sum(-4, keepdim=True).round().clamp(least, most)
        up = target - down.sum(-4, keepdim=True)
        return self.join(down + (_ranks(remainder) < up))


PAIRS = Block(2)  # the blocks of average2, and of a pyramid's levels


def _ranks(blocks: Tensor) -> Tensor:
    """Each pixel's rank in its block (..., P, C, h, w), uint8, 0 for the largest, ties in order.

    Pairwise comparisons take a fortieth of the time of sorting for P = 4.
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


def levels_of(image: Tensor) -> Tensor:
    """The levels of an image in [0, 1], whole where it is on the grid."""
    levels = LAST_LEVEL * image
    whole = levels.round()
    return torch.where((levels - whole).abs() < NEAR, whole, levels)
