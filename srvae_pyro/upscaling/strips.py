"""Answers put together from tiles strip by strip, from the top down.

What no later row of tiles reaches is handed on at once, so that of an answer only a strip, as high
as a tile, is ever in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.pixels import to_unit
from srvae_pyro.upscaling.canvas import Levels
from srvae_pyro.upscaling.tiles import Span, spans

__all__ = ["Grid", "strips"]


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture, which is padded by reflection to multiples that networks need.

    Attributes:
        down: for each row of the padded picture, which of the picture's rows it is.
        across: likewise for the columns.
        rows, columns: the tiles.
    """

    down: Tensor
    across: Tensor
    rows: list[Span]
    columns: list[Span]

    @classmethod
    def of(cls, height: int, width: int, multiple: int, side: Callable[[int, int], int]) -> Grid:
        """The tiles of a picture of such a size.

        Args:
            height, width: of the picture.
            multiple: what the padded sides, and the places of tiles, are multiples of.
            side: the side of tiles for a padded height and width; 0: one tile.
        """
        down, across = _reflected(height, multiple), _reflected(width, multiple)
        tall, wide = len(down), len(across)
        tile = side(tall, wide)
        return cls(
            down, across, spans(tall, tile or tall, multiple), spans(wide, tile or wide, multiple)
        )


def strips(
    picture: Levels,
    grid: Grid,
    factor: int,
    count: int,
    cut: bool,
    enlarged: Callable[[Tensor, Span, Span], Iterable[Tensor]],
    made: Callable[[int], object],
) -> Iterator[tuple[range, Tensor]]:
    """Rows of a picture, and what its answers have there, (count, C, n, W) in [0, 1].

    The strips are parts of one tensor: each holds until the next is asked for.

    Args:
        picture: levels (c, h, w).
        grid: its tiles.
        factor: how many times larger answers are.
        count: how many answers.
        cut: whether tiles are cut between two pixels rather than blended.
        enlarged: the answers (C, ..) to a tile (1, c, ..) in [0, 1], which may be changed; given
            its places too.
        made: told how many pixels have been made.
    """
    channels, height, width = picture.shape
    tall, wide = grid.rows[0].stop - grid.rows[0].start, len(grid.across)
    sums = torch.zeros(count, channels, factor * tall, factor * wide)
    row_ends = [*(min(row.start, height) for row in grid.rows[1:]), height]
    column_ends = [*(min(column.start, width) for column in grid.columns[1:]), width]
    for row, end in zip(grid.rows, row_ends, strict=True):
        places = grid.down[row.pixels]
        top = int(places.min())
        source = picture.rows(top, int(places.max()) + 1)[:, places - top]
        for column, right in zip(grid.columns, column_ends, strict=True):
            part = to_unit(source[None][..., grid.across[column.pixels]])
            weights = row.weights(factor, cut)[:, None] * column.weights(factor, cut)
            for own, x in zip(sums, enlarged(part, row, column), strict=True):
                x *= weights
                own[..., column.enlarged(factor)] += x
                made(factor**2 * (end - row.start) * (right - column.start))
        done = factor * (end - row.start)
        yield range(row.start, end), sums[:, :, :done, : factor * width]
        carried = sums[:, :, done:].clone()
        sums[:, :, : carried.shape[2]] = carried
        sums[:, :, carried.shape[2] :] = 0


def _reflected(length: int, multiple: int) -> Tensor:
    """The indices of so many pixels, and after them those that pad them to a multiple."""
    # NumPy reflects as often as it takes, also a picture of one pixel.
    return torch.from_numpy(np.pad(np.arange(length), (0, -length % multiple), mode="reflect"))
