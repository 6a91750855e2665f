"""Batches of pictures in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from srvae_pyro.data.stream import StreamedPictures, shuffled
from srvae_pyro.streams import stream

__all__ = ["Batches"]


class Batches:
    """Shuffled batches of pictures that stay uint8 until they are on the device.

    The order of an epoch depends on the seed and the epoch alone, so a run can go on from the
    middle of one. Pictures that fit into a quarter of a GPU's free memory are kept there.

    Args:
        images: uint8 (N, C, H, W) on the CPU, or pictures that are read when they are needed.
        batch_size: images a batch; a last batch that is smaller is left out.
        device: where the batches go.
        seed: of the orders.
        rank, size: of the processes that share each batch, this one and how many.
    """

    def __init__(
        self,
        images: Tensor | StreamedPictures,
        batch_size: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.rank, self.size = rank, size
        self.batch_size = min(batch_size, len(images))
        self.device = device
        self.seed = seed
        if isinstance(images, Tensor) and device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            images = images.to(device) if images.nbytes < free // 4 else images
        self.images = images

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The pictures' indices in the order of ``epoch``."""
        random = stream(self.seed, epoch, *b"order")
        if isinstance(self.images, StreamedPictures):
            return self.images.order(random)
        return shuffled(len(self.images), random)

    def first(self, count: int) -> Tensor:
        """The first pictures of the first epoch, uint8 (count, C, H, W)."""
        index = self.order(0)[:count]
        if isinstance(self.images, StreamedPictures):
            return self.images.read(index)
        return self.images[index]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """This process's part of the batches of ``epoch`` from number ``start`` on.

        Each uint8 (B / size, C, H, W) on the device.
        """
        order = self.order(epoch)
        whole = (
            order[number * self.batch_size : (number + 1) * self.batch_size]
            for number in range(start, len(self))
        )
        mine = (index[self.rank :: self.size] for index in whole)
        if isinstance(self.images, StreamedPictures):
            for batch in self.images.batches(mine, pin=self.device.type == "cuda"):
                yield batch.to(self.device, non_blocking=True)
            return
        for index in mine:
            batch = self.images[index.to(self.images.device)]
            if batch.device.type != self.device.type:
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            yield batch
