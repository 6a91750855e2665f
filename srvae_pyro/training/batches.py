"""Batches of images in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from srvae_pyro.data.splits import TrainingImages


class Batches:
    """Shuffled batches of images that stay uint8 until they are on the device.

    The order of an epoch depends on the seed and the epoch alone, so a run can go on from the
    middle of one. Images that fit into a quarter of a GPU's free memory are kept there. A last
    batch that is smaller is left out; ``size`` processes share each batch.
    """

    def __init__(
        self,
        images: TrainingImages,
        batch_size: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.images = images.on(device)
        self.batch_size = min(batch_size, len(images))
        self.device = device
        self.seed = seed
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """What is read in ``epoch``, in its order, see :class:`TrainingImages`."""
        return self.images.order(self.seed, epoch)

    def first(self, count: int) -> Tensor:
        """The first images of the first epoch, uint8 (count, C, H, W)."""
        return self.images.read(self.order(0)[:count])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """This process's part of the batches of ``epoch``, from batch ``start`` on.

        Each is uint8 (batch_size / size, C, H, W) on the device.
        """
        order = self.order(epoch)
        whole = (
            order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))
        )
        shares = (indices[self.rank :: self.size] for indices in whole)
        yield from self.images.batches(shares, self.device)
