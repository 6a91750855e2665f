"""Overlapping tiles along a side of a picture, and the weights that blend them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Span", "spans"]

OVERLAP = 4  # neighbouring tiles share a part of their side, one in so many
WIDEST = 64  # pixels of it at most: so far from a border hardly anything depends on it


@dataclass(frozen=True)
class Span:
    """The place of a tile along one side of the picture, and how its weight rises and falls.

    Attributes:
        start, stop: first pixel, and first pixel after it.
        rise, fall: places between pixels around which the weight goes from 0 to 1 and back; None
            at the picture's own border, where it does not.
        ramp: over how many pixels it does.
    """

    start: int
    stop: int
    rise: float | None
    fall: float | None
    ramp: float

    @property
    def pixels(self) -> slice:
        return slice(self.start, self.stop)

    def enlarged(self, factor: int) -> slice:
        return slice(factor * self.start, factor * self.stop)

    def weights(self, factor: int, cut: bool = False) -> Tensor:
        """A weight for each pixel of the enlarged tile; those of all tiles add up to 1.

        Args:
            factor: how many times larger it is.
            cut: weights are 0 or 1, and change between two pixels of the picture.
        """
        count = factor * (self.stop - self.start)
        places = self.start + (torch.arange(count, dtype=torch.float64) + 0.5) / factor

        def risen(centre: float | None, otherwise: float) -> Tensor:
            if centre is None:
                return torch.full_like(places, otherwise)
            if cut:
                return (places > math.floor(centre)).double()
            return ((places - centre) / self.ramp + 0.5).clamp(0, 1)

        return (risen(self.rise, 1.0) - risen(self.fall, 0.0)).float()


def spans(length: int, side: int, multiple: int) -> list[Span]:
    """Tiles of ``side`` pixels that cover ``length`` evenly, from multiples of ``multiple``.

    Neighbours overlap by about a quarter of a side, or 64 pixels if that is less, or more. The
    weights cross over half of that, in the middle of the overlap: a tile's outermost pixels count
    nothing.
    """
    if length <= side:
        return [Span(0, length, None, None, 1.0)]
    overlap = max(min(side // OVERLAP, WIDEST) // multiple, 2) * multiple
    count = math.ceil((length - overlap) / (side - overlap))
    steps = (length - side) // multiple
    starts = [i * steps // (count - 1) * multiple for i in range(count)]
    centres = [(b + a + side) / 2 for a, b in itertools.pairwise(starts)]
    edges = [None, *centres, None]
    return [
        Span(start, start + side, edges[i], edges[i + 1], overlap / 2)
        for i, start in enumerate(starts)
    ]
