"""A part of a set of images, evenly spaced over it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["evenly_spaced", "evenly_spaced_indices"]


def evenly_spaced_indices(total: int, count: int | None) -> Tensor:
    """``count`` of the indices below ``total``, evenly spaced, the same ones always; None: all.

    Pictures are often sorted by class, so the first ones would be of one kind.
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


def evenly_spaced(images: Tensor, count: int | None) -> Tensor:
    """``count`` of the images, see :func:`evenly_spaced_indices`; None: all."""
    return images if count is None else images[evenly_spaced_indices(len(images), count)]
