"""Training crops of images of any size, held in memory, and spaced crops for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.image_files import for_each, image_size, read_image, size_by_header
from srvae_pyro.data.sources import Source
from srvae_pyro.data.splits import evenly_spaced_indices, shuffled_crops
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import stream, to_device


class Grid(NamedTuple):
    """Evenly spaced crops of images."""

    crops: Tensor  # uint8 (N, C, side, side)
    image_of: Tensor  # ascending index of each one's image, (N)
    errors: dict[int, str]  # why images cannot be read, by their indices


def crops_an_epoch(sizes: np.ndarray, side: int) -> np.ndarray:
    """How many crops an epoch has of each image of sizes (N, 2): as many as have its area; (N)."""
    counts: np.ndarray = (2 * sizes.prod(axis=1) + side**2) // (2 * side**2)
    return counts


def capacities(sizes: np.ndarray, side: int) -> np.ndarray:
    """How many crops fit side by side into images of ``sizes`` (N, 2), in either order: (N)."""
    fitting: np.ndarray = (sizes // side).prod(axis=1)
    return fitting


def shares(capacities: np.ndarray, most: int | None = None) -> np.ndarray:
    """How many of ``most`` crops (None: all) each image has, (N): evenly, no more than fit."""
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
    """Top and left of ``count`` of the crops that fit side by side, evenly spaced: (count, 2)."""
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


def cut(image: Tensor, places: np.ndarray, side: int, out: Tensor) -> None:
    for crop, (top, left) in zip(out, places.tolist(), strict=True):
        crop.copy_(image[:, top : top + side, left : left + side])


def read_grid(
    read: Callable[[int], Tensor],
    sizes: np.ndarray,
    channels: int,
    side: int,
    most: int | None,
    what: str = "crops",
) -> Grid:
    """At most ``most`` crops side by side, shared evenly among the images that ``read`` returns."""
    counts = shares(capacities(sizes, side), most)
    chosen = np.flatnonzero(counts)
    ends = np.cumsum(counts)
    crops = torch.empty(int(counts.sum()), channels, side, side, dtype=torch.uint8)

    def read_part(part: int) -> None:
        i = int(chosen[part])
        image = read(i)
        height, width = image.shape[1:]
        places = grid_places(width, height, side, int(counts[i]))
        cut(image, places, side, crops[ends[i] - counts[i] : ends[i]])

    by_part = for_each(read_part, len(chosen), what)
    errors = {int(chosen[part]): error for part, error in by_part.items()}
    image_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    if errors:
        kept = ~torch.isin(image_of, torch.tensor(list(errors)))
        crops, image_of = crops[kept], image_of[kept]
    return Grid(crops, image_of, errors)


HEADER = 2**16  # bytes of an image in a tar that tell its size, for most formats


@dataclass(frozen=True)
class SizedImages:
    """Images of a source: their indices (N); width and height of each (N, 2), or swapped."""

    source: Source
    indices: np.ndarray
    sizes: np.ndarray
    channels: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def nbytes(self) -> np.ndarray:
        """Bytes of each decoded image, (N)."""
        nbytes: np.ndarray = self.channels * self.sizes.prod(axis=1)
        return nbytes

    def of(self, kept: np.ndarray) -> SizedImages:
        return SizedImages(self.source, self.indices[kept], self.sizes[kept], self.channels)

    def name(self, index: int) -> Path:
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Tensor:
        """Image ``index`` upright, uint8 levels (C, H, W)."""
        name, source_index = self.name(index), int(self.indices[index])
        image = read_image(name, self.channels, content=self.source.content(source_index))
        if sorted(image.size) != sorted(self.sizes[index].tolist()):
            raise UserError(f"cannot read the image {name} (its size has changed)")
        levels = np.asarray(image).reshape(image.height, image.width, self.channels)
        return torch.from_numpy(levels.transpose(2, 0, 1).copy())

    def __getitem__(self, index: int) -> Tensor | str:
        """Image ``index``, or the reason why it cannot be read."""
        try:
            return self.read(index)
        except (UserError, OSError) as error:
            return str(error)


def measure(
    source: Source, indices: np.ndarray, channels: int, what: str
) -> tuple[SizedImages, dict[int, str]]:
    """The sizes of images by their headers; if one is 0, why it cannot be read, by its place."""
    sizes = np.zeros((len(indices), 2), dtype=np.int64)

    def measure_one(i: int) -> None:
        sizes[i] = _size(source, int(indices[i]))

    errors = for_each(measure_one, len(indices), what)
    return SizedImages(source, indices, sizes, channels), errors


def _size(source: Source, index: int) -> tuple[int, int]:
    name = source.name(index)
    beginning = source.beginning(index, HEADER)
    # Only the whole of a TIFF tells which page is read.
    if not beginning.startswith((b"II", b"MM")):
        with contextlib.suppress(Exception):
            return size_by_header(name, beginning)
    return image_size(name, source.content(index))


FRACTION = 31  # bits of a crop's place


def crop_order(
    seed: int, epoch: int, counts: np.ndarray, nbytes: np.ndarray, starts: np.ndarray
) -> Tensor:
    """The crops of an epoch in order, int32 (M, 3): image, and place down and across in 2^-31."""
    images = shuffled_crops(counts, nbytes, starts, stream(seed, epoch, *b"order"))
    places = stream(seed, epoch, *b"crops").integers(
        2**FRACTION, size=(len(images), 2), dtype=np.int32
    )
    return torch.from_numpy(np.column_stack([images, places]))


def places_in(heights: Tensor, widths: Tensor, shares: Tensor, side: int) -> Tensor:
    """Top and left (B, 2) by shares (B, 2) of all places."""
    room = torch.stack([heights, widths], dim=1) - side + 1
    return (shares.long() * room) >> FRACTION


class MemoryCrops:
    """Random crops of images in memory, as many of an image an epoch as have its area."""

    def __init__(
        self, levels: Tensor, offsets: np.ndarray, sizes: np.ndarray, channels: int, side: int
    ) -> None:
        self.levels, self.side, self.channels = levels, side, channels
        self.offsets, self.sizes = offsets, sizes
        self.counts = crops_an_epoch(sizes, side)
        self.shape = torch.Size([int(self.counts.sum()), channels, side, side])
        self.workers = 0
        table = np.column_stack([offsets, sizes])
        self.table = torch.from_numpy(table).to(levels.device)

    @classmethod
    def of_images(cls, images: Tensor, side: int) -> MemoryCrops:
        """Crops of images of one size, uint8 (N, C, H, W)."""
        count, channels, height, width = images.shape
        offsets = np.arange(count) * channels * height * width
        sizes = np.tile([width, height], (count, 1))
        return cls(images.contiguous().view(-1), offsets, sizes, channels, side)

    def __len__(self) -> int:
        return self.shape[0]

    def on(self, device: torch.device) -> MemoryCrops:
        if device.type == "cuda" and self.levels.nbytes < torch.cuda.mem_get_info(device)[0] // 4:
            levels = self.levels.to(device)
            return MemoryCrops(levels, self.offsets, self.sizes, self.channels, self.side)
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        nbytes = self.channels * self.sizes.prod(axis=1)
        return crop_order(seed, epoch, self.counts, nbytes, np.zeros(1, dtype=np.int64))

    def read(self, indices: Tensor) -> Tensor:
        device = self.table.device
        crops = to_device(indices, device).long()
        starts, widths, heights = self.table[crops[:, 0]].unbind(1)
        top, left = places_in(heights, widths, crops[:, 1:], self.side).unbind(1)
        planes = (
            torch.arange(self.channels, device=device)[:, None] * (widths * heights)[:, None, None]
        )
        rows = torch.arange(self.side, device=device) * widths[:, None, None]
        # Of a row of a crop its first level is looked up, and the others follow: (B, C, side).
        firsts = (starts + top * widths + left)[:, None, None] + planes + rows
        return self.levels.unfold(0, self.side, 1)[firsts]

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        for indices in batches:
            yield to_device(self.read(indices), device)

    def image(self, index: int) -> Tensor:
        width, height = self.sizes[index].tolist()
        start = int(self.offsets[index])
        levels = self.levels[start : start + self.channels * height * width].cpu()
        return levels.view(self.channels, height, width)

    def in_memory(self, most: int | None = None) -> Tensor:
        return read_grid(self.image, self.sizes, self.channels, self.side, most).crops

    def chunks(self) -> Iterator[Tensor]:
        yield self.levels.cpu()
