"""Squares cut from pictures of any sizes: how many of each, and evenly spaced ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.pictures import in_parts
from srvae_pyro.data.subset import evenly_spaced_indices
from srvae_pyro.errors import UserError

__all__ = ["Grid", "capacities", "crops_an_epoch", "cut", "grid_places", "read_grid", "shares"]


class Grid(NamedTuple):
    """Evenly spaced crops of pictures.

    Attributes:
        crops: uint8 (N, C, side, side).
        picture_of: the index of each one's picture, ascending, (N).
        mistakes: why pictures cannot be read, by their indices; they have no crops here.
    """

    crops: Tensor
    picture_of: Tensor
    mistakes: dict[int, str]


def crops_an_epoch(sizes: np.ndarray, side: int) -> np.ndarray:
    """How many crops an epoch has of each picture: as many as have its area, rounded; (N).

    Args:
        sizes: width and height of each picture, (N, 2), at least ``side`` each.
        side: of a crop, in pixels.
    """
    counts: np.ndarray = (2 * sizes.prod(axis=1) + side**2) // (2 * side**2)
    return counts


def capacities(sizes: np.ndarray, side: int) -> np.ndarray:
    """How many crops fit side by side into pictures of ``sizes`` (N, 2), in rows and columns; (N).

    It is the same for a picture and the picture turned by a quarter.
    """
    fitting: np.ndarray = (sizes // side).prod(axis=1)
    return fitting


def shares(capacities: np.ndarray, most: int | None = None) -> np.ndarray:
    """How many of ``most`` crops each picture has, (N): evenly, and no more than it has room for.

    Of more pictures than that, some evenly spaced ones have one. What cannot be shared evenly goes
    to evenly spaced pictures. None: all that there is room for.
    """
    if most is None or most >= capacities.sum():
        return capacities.copy()
    level, rest = 0, most
    while (full := int((capacities > level).sum())) <= rest:
        level, rest = level + 1, rest - full
    counts: np.ndarray = np.minimum(capacities, level)
    more = np.flatnonzero(capacities > level)
    counts[more[evenly_spaced_indices(len(more), rest).numpy()]] += 1
    return counts


def grid_places(width: int, height: int, side: int, count: int) -> np.ndarray:
    """Top and left of ``count`` of the crops that fit side by side, (count, 2).

    All of them reach from border to border at even spaces; of one row, or column, it is the middle.
    Some of them are evenly spaced in the order of reading.
    """
    rows, columns = height // side, width // side
    cells = (2 * np.arange(count) + 1) * rows * columns // (2 * count)
    tops, lefts = _starts(height, side, rows), _starts(width, side, columns)
    return np.stack([tops[cells // columns], lefts[cells % columns]], axis=1)


def _starts(length: int, side: int, count: int) -> np.ndarray:
    """Where ``count`` intervals of ``side`` begin in one of ``length``, at even spaces."""
    if count == 1:
        return np.array([(length - side) // 2])
    # Rounded down: two rounded to the nearest could overlap by a pixel.
    starts: np.ndarray = np.arange(count) * (length - side) // (count - 1)
    return starts


def cut(picture: Tensor, places: np.ndarray, side: int, out: Tensor) -> None:
    """Copy the squares of a picture (C, H, W) at ``places``, top and left, to ``out``."""
    for crop, (top, left) in zip(out, places.tolist(), strict=True):
        crop.copy_(picture[:, top : top + side, left : left + side])


def read_grid(
    read: Callable[[int], Tensor],
    sizes: np.ndarray,
    channels: int,
    side: int,
    most: int | None,
    what: str = "crops",
) -> Grid:
    """At most so many crops, which do not overlap, of pictures among which they are evenly shared.

    Args:
        read: gives the picture (C, H, W) of an index, or raises a UserError.
        sizes: width and height of each picture in either order, (N, 2).
        channels: C.
        side: of a crop, in pixels.
        most: how many; None: all that fit side by side.
        what: what the progress bar calls them.
    """
    counts = shares(capacities(sizes, side), most)
    chosen = np.flatnonzero(counts)
    ends = np.cumsum(counts)
    crops = torch.empty(int(counts.sum()), channels, side, side, dtype=torch.uint8)
    mistakes: dict[int, str] = {}

    def read_part(start: int, stop: int) -> None:
        for i in chosen[start:stop].tolist():
            try:
                picture = read(i)
            except UserError as error:
                mistakes[i] = str(error)
                continue
            height, width = picture.shape[1:]
            places = grid_places(width, height, side, int(counts[i]))
            cut(picture, places, side, crops[ends[i] - counts[i] : ends[i]])

    for _ in in_parts(read_part, len(chosen), what):
        pass
    picture_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    if mistakes:
        kept = ~torch.isin(picture_of, torch.tensor(list(mistakes)))
        crops, picture_of = crops[kept], picture_of[kept]
    return Grid(crops, picture_of, mistakes)
