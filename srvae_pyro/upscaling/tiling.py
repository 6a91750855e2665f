"""Overlapping tiles, and canvases that outputs larger than memory are written to."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BAND = 1 << 21  # values of a band of rows, about


class Levels(Protocol):
    """An image's uint8 levels (C, H, W), of which a few rows at a time are read."""

    @property
    def shape(self) -> Sequence[int]: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """The levels (C, stop - start, W) of some rows."""


class Canvas(Levels, Protocol):
    """An image that is written from the top down."""

    def append(self, rows: Tensor) -> None: ...

    def like(self, shape: Sequence[int]) -> Canvas: ...


class MemoryCanvas:
    """A canvas in memory: uint8 levels (C, H, W), which are written over."""

    def __init__(self, levels: Tensor) -> None:
        self.levels = levels
        self._filled = 0

    @classmethod
    def blank(cls, shape: Sequence[int]) -> MemoryCanvas:
        return cls(torch.empty(tuple(shape), dtype=torch.uint8))

    @property
    def shape(self) -> Sequence[int]:
        return self.levels.shape

    def rows(self, start: int, stop: int) -> Tensor:
        return self.levels[:, start:stop]

    def append(self, rows: Tensor) -> None:
        stop = self._filled + rows.shape[1]
        self.levels[:, self._filled : stop] = rows
        self._filled = stop

    def like(self, shape: Sequence[int]) -> MemoryCanvas:
        return self.blank(shape)


class Scratch:
    """Canvases in one temporary file, nameless if the system allows it, so that none is left."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._end = 0

    def canvas(self, shape: Sequence[int]) -> Canvas:
        start = self._end
        self._end += math.prod(shape)
        return _FileCanvas(self, start, tuple(shape))

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _FileCanvas:
    """A canvas in a temporary file, from its byte ``start`` on."""

    def __init__(self, scratch: Scratch, start: int, shape: Sequence[int]) -> None:
        self.shape = shape
        self.like = scratch.canvas
        self._file, self._start = scratch.file, start
        self._filled = 0

    def rows(self, start: int, stop: int) -> Tensor:
        channels, _, width = self.shape
        if stop > self._filled:
            raise ValueError(f"rows {start} to {stop} are not there: {self._filled} are")
        self._seek(start)
        content = self._file.read((stop - start) * width * channels)
        levels = np.frombuffer(bytearray(content), dtype=np.uint8)
        return torch.from_numpy(levels).view(stop - start, width, channels).permute(2, 0, 1)

    def append(self, rows: Tensor) -> None:
        self._seek(self._filled)
        self._file.write(rows.permute(1, 2, 0).contiguous().numpy().data)
        self._filled += rows.shape[1]

    def _seek(self, row: int) -> None:
        channels, _, width = self.shape
        self._file.seek(self._start + row * width * channels)


def bands(shape: Sequence[int], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """First row and first row after it of bands of an image (C, H, W), at multiples."""
    channels, height, width = shape
    step = max(BAND // (channels * width) // multiple, 1) * multiple
    for start in range(0, height, step):
        yield start, min(start + step, height)


OVERLAP = 4  # neighbouring tiles share a part of their side, one in so many
WIDEST = 64  # pixels of it at most: so far from a border hardly anything depends on it


@dataclass(frozen=True)
class Span:
    """The place of a tile along one side of the image, and how its weight rises and falls."""

    start: int
    stop: int  # first pixel after it
    rise: float | None  # place between pixels around which the weight goes from 0 to 1
    fall: float | None  # and back; None at the image's own border, where it does not
    ramp: float  # over how many pixels it does

    @property
    def pixels(self) -> slice:
        return slice(self.start, self.stop)

    def upscaled(self, factor: int) -> slice:
        return slice(factor * self.start, factor * self.stop)

    def weights(self, factor: int, cut: bool = False) -> Tensor:
        """Weights of the upscaled tile's pixels, 1 over all tiles; 0 or 1 each if ``cut``."""
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
    """Evenly spaced tiles of ``side`` pixels; weights cross in the middle half of an overlap."""
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


@dataclass(frozen=True)
class Grid:
    """The tiles of an image, which is padded by reflection to multiples that networks need."""

    down: Tensor  # for each row of the padded image, the image's row
    across: Tensor  # likewise for the columns
    rows: list[Span]
    columns: list[Span]

    @classmethod
    def of(cls, height: int, width: int, multiple: int, side: Callable[[int, int], int]) -> Grid:
        """The tiles of an image; ``side`` gives theirs for a padded height and width, 0: one."""
        down, across = _reflected(height, multiple), _reflected(width, multiple)
        tall, wide = len(down), len(across)
        tile = side(tall, wide)
        return cls(
            down, across, spans(tall, tile or tall, multiple), spans(wide, tile or wide, multiple)
        )


def _reflected(length: int, multiple: int) -> Tensor:
    """The indices of so many pixels, and those that pad them to a multiple."""
    # NumPy reflects as often as it takes, also an image of one pixel.
    return torch.from_numpy(np.pad(np.arange(length), (0, -length % multiple), mode="reflect"))
