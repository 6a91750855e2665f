"""Random orders of pictures, and of crops of pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["BLOCK", "MOST_AT_ONCE", "WINDOW", "shuffled", "shuffled_crops", "shuffled_in_windows"]

WINDOW = 16  # tars whose pictures are shuffled together
BLOCK = 2**29  # bytes of decoded pictures whose crops are shuffled together
MOST_AT_ONCE = 32  # crops for which a picture enters a block


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


def shuffled_crops(
    counts: np.ndarray, nbytes: np.ndarray, starts: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The picture of each crop in a random order, in which few decoded pictures are held at a time.

    Pictures of :data:`BLOCK` bytes together are shuffled as a whole. Of more, random pictures make
    a block, whose crops are shuffled, and block follows upon block: so whoever reads them decodes a
    picture once for all its crops in the block. That is for :data:`MOST_AT_ONCE` crops: a large
    picture has more and enters several blocks, or a batch would be of few pictures.

    Args:
        counts: crops of each picture, at least one, (N).
        nbytes: of each picture when it is decoded, (N).
        starts: see :func:`shuffled_in_windows`, of runs of pictures.
        random: source of the order.

    Returns:
        Indices of pictures, int32, as many as there are crops.
    """
    pictures = np.arange(len(counts), dtype=np.int32)
    if nbytes.sum() <= BLOCK:
        crops: np.ndarray = np.repeat(pictures, counts)[random.permutation(counts.sum())]
        return crops
    readings = -(-counts // MOST_AT_ONCE)
    first = np.cumsum(readings) - readings
    number = np.arange(readings.sum()) - np.repeat(first, readings)
    pictures = np.repeat(pictures, readings)
    counts, readings = counts[pictures], readings[pictures]
    counts = counts * (number + 1) // readings - counts * number // readings  # evenly
    order = shuffled_in_windows(first[starts], len(pictures), random).numpy()
    pictures, counts = pictures[order], counts[order]
    block = np.cumsum(nbytes[pictures]) // BLOCK
    borders = np.flatnonzero(np.diff(block)) + 1
    parts = []
    for part, part_counts in zip(
        np.split(pictures, borders), np.split(counts, borders), strict=True
    ):
        crops = np.repeat(part, part_counts)
        parts.append(crops[random.permutation(len(crops))])
    return np.concatenate(parts)
