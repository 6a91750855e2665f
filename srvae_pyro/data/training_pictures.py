"""Pictures to train on: what training asks of them, and those that are held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from srvae_pyro.data.orders import shuffled
from srvae_pyro.system.device import sent
from srvae_pyro.system.streams import stream

__all__ = ["MemoryPictures", "TrainingPictures"]


class TrainingPictures(Protocol):
    """Pictures of one shape to train on, in memory or read when they are needed.

    All images are uint8 levels (N, C, H, W).

    Attributes:
        shape: (N, C, H, W) of all that an epoch has.
        workers: processes that read them ahead; pictures in memory need none.
    """

    shape: torch.Size
    workers: int

    def __len__(self) -> int: ...

    def on(self, device: torch.device) -> TrainingPictures:
        """The same pictures, kept on ``device`` if they are in memory and it has room for them."""
        ...

    def order(self, seed: int, epoch: int) -> Tensor:
        """What an epoch has, in a random order that is quick to read in.

        It depends on the seed and the epoch alone. An index for each image, (N), or whatever tells
        one apart in a row, (N, ...).
        """
        ...

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, part of an order, on whatever device they are kept."""
        ...

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """The images of each of ``batches`` of indices, on ``device``."""
        ...

    def in_memory(self, most: int | None = None) -> Tensor:
        """The readable images, on the CPU.

        Args:
            most: at most this many, evenly spaced, of pictures that are not in memory yet; None:
                all. Images that are in memory anyway are all given.
        """
        ...

    def chunks(self) -> Iterator[Tensor]:
        """The readable images one after another, in tensors that fit into memory."""
        ...


class MemoryPictures:
    """Pictures to train on that are held in memory; a :class:`TrainingPictures`.

    Args:
        images: uint8 levels (N, C, H, W).
    """

    def __init__(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError("pictures to train on are a uint8 tensor (N, C, H, W)")
        self.images = images
        self.shape = images.shape
        self.workers = 0

    def __len__(self) -> int:
        return len(self.images)

    def on(self, device: torch.device) -> MemoryPictures:
        """The same pictures, on a GPU if they take less than a quarter of its free memory."""
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if self.images.nbytes < free // 4:
                return MemoryPictures(self.images.to(device))
        return self

    def order(self, seed: int, epoch: int) -> Tensor:
        return shuffled(len(self), stream(seed, epoch, *b"order"))

    def read(self, indices: Tensor) -> Tensor:
        return self.images[indices]

    def batches(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        for indices in batches:
            yield sent(self.images[sent(indices, self.images.device)], device)

    def in_memory(self, most: int | None = None) -> Tensor:
        return self.images

    def chunks(self) -> Iterator[Tensor]:
        yield self.images
