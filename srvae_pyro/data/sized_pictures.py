"""Picture files of any sizes, whose sizes are known before they are decoded."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.opening import size_by_header
from srvae_pyro.data.pictures import in_parts, picture_size, read_picture
from srvae_pyro.data.sources import Source
from srvae_pyro.errors import UserError

__all__ = ["SizedPictures", "measure"]

HEADER = 2**16  # bytes of a picture in a tar that tell its size, for most formats


@dataclass(frozen=True)
class SizedPictures:
    """Pictures of a source, and how large they are.

    Attributes:
        source: the picture files.
        indices: which of the source's pictures these are, (N).
        sizes: width and height of each, (N, 2), or height and width where EXIF turns it.
        channels: 3 or 1.
    """

    source: Source
    indices: np.ndarray
    sizes: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def nbytes(self) -> np.ndarray:
        """Bytes that each takes when it is decoded, (N)."""
        nbytes: np.ndarray = self.channels * self.sizes.prod(axis=1)
        return nbytes

    def of(self, kept: np.ndarray) -> SizedPictures:
        """Those of the pictures at ``kept``, indices or a mask."""
        return SizedPictures(self.source, self.indices[kept], self.sizes[kept], self.channels)

    def name(self, index: int) -> Path:
        """The path of picture ``index``, or what to name it by."""
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Tensor:
        """Picture ``index`` upright, uint8 levels (C, H, W).

        Raises:
            UserError: it cannot be read, or is of another size than it was.
        """
        name, source_index = self.name(index), int(self.indices[index])
        picture = read_picture(name, self.channels, content=self.source.content(source_index))
        if sorted(picture.size) != sorted(self.sizes[index].tolist()):
            raise UserError(f"cannot read the picture {name} (its size is not what it was)")
        levels = np.asarray(picture).reshape(picture.height, picture.width, self.channels)
        return torch.from_numpy(levels.transpose(2, 0, 1).copy())


def measure(
    source: Source, indices: np.ndarray, channels: int, what: str
) -> tuple[SizedPictures, dict[int, str]]:
    """The sizes of some pictures of a source by their headers.

    Args:
        source: the picture files.
        indices: which of them, (N).
        channels: what they will be read as.
        what: what the progress bar calls them.

    Returns:
        The pictures, sizes of those that cannot be read being 0, and why those cannot be, by their
        places in ``indices``.
    """
    sizes = np.zeros((len(indices), 2), dtype=np.int64)
    mistakes: dict[int, str] = {}

    def measure_part(start: int, stop: int) -> None:
        for i in range(start, stop):
            try:
                sizes[i] = _size(source, int(indices[i]))
            except UserError as error:
                mistakes[i] = str(error)

    for _ in in_parts(measure_part, len(indices), what):
        pass
    return SizedPictures(source, indices, sizes, channels), mistakes


def _size(source: Source, index: int) -> tuple[int, int]:
    name = source.name(index)
    beginning = source.beginning(index, HEADER)
    # Only the whole of a TIFF tells which page is read.
    if not beginning.startswith((b"II", b"MM")):
        with contextlib.suppress(Exception):
            return size_by_header(name, beginning)
    return picture_size(name, source.content(index))
