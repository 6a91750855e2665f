"""Pictures that are coded together: of one size, so many at a time."""

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
        size: how many the networks get; those that are missing are black.
    """

    indices: tuple[int, ...]
    height: int
    width: int
    size: int


def batches_of(sizes: Sequence[tuple[int, int]], multiple: int, group: int) -> list[Batch]:
    """The batches of pictures of these heights and widths, which follow from nothing else.

    Args:
        sizes: of the pictures.
        multiple: what the networks want sides to be multiples of.
        group: pictures a batch, at most.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        height, width = (-(-side // multiple) * multiple for side in size)
        alike.setdefault((height, width), []).append(index)
    batches = []
    for (height, width), indices in sorted(alike.items()):
        count = max(min(group, len(indices), PIXELS // (height * width)), 1)
        for start in range(0, len(indices), count):
            batches.append(Batch(tuple(indices[start : start + count]), height, width, count))
    return batches


def padded(picture: Tensor, height: int, width: int) -> Tensor:
    """Levels (C, h, w) repeated at the right and below to the size."""
    rows = torch.arange(height).clamp_max(picture.shape[-2] - 1)
    columns = torch.arange(width).clamp_max(picture.shape[-1] - 1)
    return picture[:, rows][:, :, columns]
