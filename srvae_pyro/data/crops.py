"""Crops to train on, of pictures of any sizes that are held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.crop_grid import crops_an_epoch, read_grid
from srvae_pyro.data.orders import shuffled_crops
from srvae_pyro.system.device import sent
from srvae_pyro.system.streams import stream

__all__ = ["MemoryCrops", "crop_order", "places_in"]

FRACTION = 31  # bits of a crop's place


def crop_order(
    seed: int, epoch: int, counts: np.ndarray, nbytes: np.ndarray, starts: np.ndarray
) -> Tensor:
    """The crops of an epoch in their order, int32 (M, 3): picture, and place down and across.

    A place is a share of what there is, in units of 2^-31: the picture's size need not be known.
    Places and order have streams of their own.

    Args:
        seed: the run's.
        epoch: the epoch.
        counts: crops of each picture, (N).
        nbytes: of each decoded picture, (N).
        starts: the index at which each run of pictures starts that is best read together.
    """
    pictures = shuffled_crops(counts, nbytes, starts, stream(seed, epoch, *b"order"))
    places = stream(seed, epoch, *b"crops").integers(
        2**FRACTION, size=(len(pictures), 2), dtype=np.int32
    )
    return torch.from_numpy(np.column_stack([pictures, places]))


def places_in(heights: Tensor, widths: Tensor, shares: Tensor, side: int) -> Tensor:
    """Top and left (B, 2) by shares (B, 2) of what there is: every place is as probable."""
    room = torch.stack([heights, widths], dim=1) - side + 1
    return (shares.long() * room) >> FRACTION


class MemoryCrops:
    """Random crops of pictures in memory; a :class:`TrainingPictures`.

    An epoch has as many crops of a picture as have its area, at places that are drawn anew.

    Args:
        levels: the levels (C, H, W) of all pictures one behind the other, uint8, flat.
        offsets: where each picture begins, (N).
        sizes: width and height of each, (N, 2).
        channels: C.
        side: of a crop, in pixels.
    """

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
        """The same, on a GPU if the pictures take less than a quarter of its free memory."""
        if device.type == "cuda" and self.levels.nbytes < torch.cuda.mem_get_info(device)[0] // 4:
            levels = self.levels.to(device)
            return MemoryCrops(levels, self.offsets, self.sizes, self.channels, self.side)
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        nbytes = self.channels * self.sizes.prod(axis=1)
        return crop_order(seed, epoch, self.counts, nbytes, np.zeros(1, dtype=np.int64))

    def read(self, indices: Tensor) -> Tensor:
        device = self.table.device
        crops = sent(indices, device).long()
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
            yield sent(self.read(indices), device)

    def picture(self, index: int) -> Tensor:
        """Picture ``index``, (C, H, W), on the CPU."""
        width, height = self.sizes[index].tolist()
        start = int(self.offsets[index])
        levels = self.levels[start : start + self.channels * height * width].cpu()
        return levels.view(self.channels, height, width)

    def in_memory(self, most: int | None = None) -> Tensor:
        return read_grid(self.picture, self.sizes, self.channels, self.side, most).crops

    def chunks(self) -> Iterator[Tensor]:
        yield self.levels.cpu()
