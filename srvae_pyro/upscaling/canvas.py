"""Pictures that are written from the top down as rows are finished, and read a few rows at a time.

An answer can be larger than what memory is allowed: it waits in a temporary file until it is
complete and can be written as a picture.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Canvas", "Levels", "MemoryCanvas", "Scratch", "bands"]

BAND = 1 << 21  # values of a band of rows, about


class Levels(Protocol):
    """A picture's uint8 levels (C, H, W), of which a few rows at a time are read."""

    @property
    def shape(self) -> Sequence[int]:
        """(C, H, W)."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """The levels (C, stop - start, W) of some rows."""
        ...


class Canvas(Levels, Protocol):
    """A picture that is written from the top down."""

    def append(self, rows: Tensor) -> None:
        """Write the next rows, uint8 (C, n, W)."""
        ...


class MemoryCanvas:
    """A canvas in memory.

    Args:
        levels: uint8 (C, H, W), written over.
    """

    def __init__(self, levels: Tensor) -> None:
        self.levels = levels
        self._filled = 0

    @classmethod
    def blank(cls, shape: Sequence[int]) -> MemoryCanvas:
        """A canvas of a picture (C, H, W)."""
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


class Scratch:
    """Canvases in one temporary file, which is gone when it is closed.

    Where the system allows it the file has no name: then nothing is left of it, however the process
    ends.

    Args:
        folder: where the file is to be.

    Raises:
        OSError: there is no room, here and when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._end = 0

    def canvas(self, shape: Sequence[int]) -> Canvas:
        """A canvas of a picture (C, H, W)."""
        start = self._end
        self._end += math.prod(shape)
        return _FileCanvas(self._file, start, tuple(shape))

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _FileCanvas:
    """A canvas in an open file, from its byte ``start`` on."""

    def __init__(self, file: IO[bytes], start: int, shape: Sequence[int]) -> None:
        self.shape = shape
        self._file, self._start = file, start
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
    """First row, and first row after it, of parts of a picture (C, H, W) of a few million values.

    Args:
        shape: of the picture.
        multiple: what the first rows are multiples of.
    """
    channels, height, width = shape
    step = max(BAND // (channels * width) // multiple, 1) * multiple
    for start in range(0, height, step):
        yield start, min(start + step, height)
