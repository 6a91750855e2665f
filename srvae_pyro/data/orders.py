"""Random orders of pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["WINDOW", "shuffled", "shuffled_in_windows"]

WINDOW = 16  # tars whose pictures are shuffled together


def shuffled(count: int, random: np.random.Generator) -> Tensor:
    """Indices 0..count-1 in a random order."""
    return torch.from_numpy(random.permutation(count))


def shuffled_in_windows(starts: np.ndarray, count: int, random: np.random.Generator) -> Tensor:
    """Indices 0..count-1 in a random order that goes through runs of them, :data:`WINDOW` at once.

    So each tar is read within a short time, and stays in the system's file cache for it.

    Args:
        starts: the index at which each run starts, ascending from 0; a tar's pictures are a run.
        count: how many indices there are.
        random: source of the order.
    """
    ends = np.append(starts[1:], count)
    parts = []
    for window in shuffled(len(starts), random).split(WINDOW):
        indices = torch.cat([torch.arange(starts[i], ends[i]) for i in window.tolist()])
        parts.append(indices[shuffled(len(indices), random)])
    return torch.cat(parts)
