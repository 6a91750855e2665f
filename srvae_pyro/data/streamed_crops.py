"""Crops to train on, of pictures that are read when they are needed."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srvae_pyro.data.crop_grid import crops_an_epoch, cut, read_grid
from srvae_pyro.data.crops import crop_order, places_in
from srvae_pyro.data.orders import BLOCK
from srvae_pyro.data.sized_pictures import SizedPictures
from srvae_pyro.data.streaming import read_ahead
from srvae_pyro.errors import UserError
from srvae_pyro.system.device import sent

__all__ = ["StreamedCrops"]

HELD = BLOCK * 5 // 4  # bytes of decoded pictures: a block of an order, which may end late
_NOTHING = torch.empty(0, 0, 0, dtype=torch.uint8)


class StreamedCrops:
    """Random crops of pictures of which few are in memory; a :class:`TrainingPictures`.

    They are those of :class:`~srvae_pyro.data.crops.MemoryCrops`, in the same order. A picture is
    decoded when its first crop is needed and kept until its last one of a block of the order. One
    that cannot be read is an error if ``strict``; otherwise other crops of a batch take the places
    of its own, with one warning.

    Args:
        pictures: the pictures, each at least as large as a crop.
        side: of a crop, in pixels.
        strict: see above.
    """

    def __init__(self, pictures: SizedPictures, side: int, strict: bool) -> None:
        self.pictures, self.side, self.strict = pictures, side, strict
        self.counts = crops_an_epoch(pictures.sizes, side)
        self.shape = torch.Size([int(self.counts.sum()), pictures.channels, side, side])
        self.workers = 0
        self.warned = False
        runs = np.searchsorted(pictures.indices, pictures.source.runs())
        self.runs = np.unique(runs[runs < len(pictures)])
        self._held: dict[int, Tensor | str] = {}  # decoded pictures, or why they cannot be read

    def __len__(self) -> int:
        return self.shape[0]

    def forget(self) -> None:
        """Free the memory of decoded pictures; they are read again when they are needed."""
        self._held.clear()

    def on(self, device: torch.device) -> StreamedCrops:
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        return crop_order(seed, epoch, self.counts, self.pictures.nbytes, self.runs)

    def read(self, indices: Tensor) -> Tensor:
        decoded = _Decoded(self.pictures)
        wanted = indices[:, 0].unique().tolist()
        return self._cut(indices, {index: decoded[index] for index in wanted})

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """The crops of each of ``batches`` of them, whose pictures ``workers`` processes decode.

        Raises:
            UserError: a picture cannot be read and these are strict, or none of a batch can be.
        """
        plan = _Plan(batches, self._held, self.pictures.nbytes)
        decoded = read_ahead(_Decoded(self.pictures), plan, _packed, self.workers)
        for levels, shapes, mistakes in decoded:
            rows, needed, dropped = plan.steps.popleft()
            if mistakes and self.strict:
                raise UserError(mistakes[0])
            if mistakes and not self.warned:
                self.warned = True
                warnings.warn(f"left out, as more may be: {mistakes[0]}", stacklevel=2)
            for index, picture in zip(needed, _unpacked(levels, shapes, mistakes), strict=True):
                self._held[index] = picture
            crops = self._cut(rows, self._held)
            for index in dropped:
                del self._held[index]
            yield sent(crops, device)

    def _cut(self, rows: Tensor, held: dict[int, Tensor | str]) -> Tensor:
        """The crops at ``rows`` (B, 3) of decoded pictures, repeated where one cannot be read.

        Raises:
            UserError: none of the pictures can be.
        """
        pictures = [held[index] for index in rows[:, 0].tolist()]
        known = [picture for picture in pictures if isinstance(picture, Tensor)]
        if not known:
            raise UserError(str(pictures[0]))
        readable = torch.tensor([isinstance(picture, Tensor) for picture in pictures])
        heights, widths = torch.tensor([picture.shape[1:] for picture in known]).unbind(1)
        places = places_in(heights, widths, rows[readable, 1:], self.side).numpy()
        crops = torch.empty(len(known), *self.shape[1:], dtype=torch.uint8)
        for picture, place, crop in zip(known, places, crops, strict=True):
            cut(picture, place[None], self.side, crop[None])
        return crops if len(known) == len(rows) else crops[torch.arange(len(rows)) % len(known)]

    def in_memory(self, most: int | None = None) -> Tensor:
        pictures = self.pictures
        grid = read_grid(pictures.read, pictures.sizes, pictures.channels, self.side, most)
        return grid.crops

    def chunks(self) -> Iterator[Tensor]:
        decoded = _Decoded(self.pictures)
        for index in range(len(decoded)):
            if isinstance(picture := decoded[index], Tensor):
                yield picture


class _Decoded(Dataset["Tensor | str"]):
    """Pictures (C, H, W) by their index, or the reasons why they cannot be read."""

    def __init__(self, pictures: SizedPictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.pictures.read(index)
        except (UserError, OSError) as error:
            return str(error)


class _Plan:
    """Which pictures to decode for each batch of crops, and which to forget after it.

    The pictures to decode are what the loader takes, ahead of the crops that are cut. Those that
    were used last are kept, :data:`HELD` bytes of them beside those of the batch.

    Args:
        batches: the crops of each batch, (B, 3).
        held: the pictures that are there, those used first being the first.
        nbytes: of each picture, (N).

    Attributes:
        steps: for each batch that the loader has taken: its crops, the pictures that are decoded
            for it, the pictures to forget.
    """

    def __init__(self, batches: Iterable[Tensor], held: Iterable[int], nbytes: np.ndarray) -> None:
        self.batches, self.nbytes = batches, nbytes
        self.recent = OrderedDict.fromkeys(held)
        self.steps: deque[tuple[Tensor, list[int], list[int]]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        total = int(self.nbytes[list(self.recent)].sum())
        for rows in self.batches:
            wanted = list(dict.fromkeys(rows[:, 0].tolist()))
            missing = [index for index in wanted if index not in self.recent]
            for index in wanted:
                self.recent[index] = None
                self.recent.move_to_end(index)
            total += int(self.nbytes[missing].sum())
            dropped = []
            while total > HELD and len(self.recent) > len(wanted):
                index, _ = self.recent.popitem(last=False)
                total -= int(self.nbytes[index])
                dropped.append(index)
            self.steps.append((rows, missing, dropped))
            yield missing


def _packed(items: list[Tensor | str]) -> tuple[Tensor, list[tuple[int, ...]], list[str]]:
    """Pictures in one flat tensor, their shapes, and what is wrong with those that have none."""
    pictures = [item if isinstance(item, Tensor) else _NOTHING for item in items]
    flat = torch.cat([_NOTHING.flatten(), *(picture.flatten() for picture in pictures)])
    mistakes = [item for item in items if isinstance(item, str)]
    return flat, [tuple(picture.shape) for picture in pictures], mistakes


def _unpacked(
    levels: Tensor, shapes: list[tuple[int, ...]], mistakes: list[str]
) -> Iterator[Tensor | str]:
    """What :func:`_packed` was given, copied: a view would keep all of its batch in memory."""
    reasons = iter(mistakes)
    for shape, part in zip(shapes, levels.split([math.prod(s) for s in shapes]), strict=True):
        yield part.clone().view(shape) if len(part) else next(reasons)
