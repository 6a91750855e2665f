"""Pictures that are coded together: of one size, a few at first and then more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch", "batches_of", "padded"]

PIXELS = 1 << 16  # that a batch has at most, if it has more than one picture


@dataclass(frozen=True)
class Batch:
    """Pictures coded together.

    Attributes:
        indices: which.
        height: that they are padded to.
        width: likewise.
    """

    indices: tuple[int, ...]
    height: int
    width: int


def batches_of(sizes: Sequence[tuple[int, int]], multiple: int, group: int) -> list[Batch]:
    """The batches of pictures of these heights and widths, which follow from nothing else.

    The first is one picture, and none has more than half the area of those before it: the latents
    of a batch are drawn by bits that these have left, so that a chain starts with few.

    Args:
        sizes: of the pictures.
        multiple: what the networks want sides to be multiples of.
        group: pictures a batch, at most.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        height, width = (-(-side // multiple) * multiple for side in size)
        alike.setdefault((height, width), []).append(index)
    batches, area = [], 0
    for (height, width), indices in sorted(alike.items()):
        own = height * width
        while indices:
            count = max(min(group, PIXELS // own, area // (2 * own)), 1)
            batches.append(Batch(tuple(indices[:count]), height, width))
            indices = indices[count:]
            area += count * own
    return batches


def padded(picture: Tensor, height: int, width: int) -> Tensor:
    """Levels (C, h, w) repeated at the right and below to the size."""
    rows = torch.arange(height).clamp_max(picture.shape[-2] - 1)
    columns = torch.arange(width).clamp_max(picture.shape[-1] - 1)
    return picture[:, rows][:, :, columns]
