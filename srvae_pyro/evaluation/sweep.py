"""A set of images in batches with their indices, shared among processes, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from srvae_pyro.system.console import Bar
from srvae_pyro.system.device import exact_float32
from srvae_pyro.system.parallel import Group

__all__ = ["Sweep", "gathered", "sweep"]


@dataclass
class Sweep:
    """This process's share of a set of images; iterating gives batches and moves the bar.

    Attributes:
        images: uint8 (N, C, H, W).
        indices: of the images in the whole set, (N); their noise is tied to them.
        batch_size: images at a time.
        bar: shows how many images are done.
        counted: of a batch, those that the bar shows already.
    """

    images: Tensor
    indices: Tensor
    batch_size: int
    bar: Bar
    counted: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Images (B, C, H, W) and their indices, batch after batch."""
        batches = zip(
            self.images.split(self.batch_size), self.indices.split(self.batch_size), strict=True
        )
        for images, indices in batches:
            self.counted = 0
            yield images, indices.tolist()
            self.done(len(images) - self.counted)

    def done(self, count: int) -> None:
        """Move the bar by some images of a batch before all of it is done."""
        self.counted += count
        self.bar.update(count)


@contextmanager
def sweep(
    images: Tensor,
    indices: Tensor | None = None,
    *,
    batch_size: int,
    group: Group,
    progress: bool = False,
) -> Iterator[Sweep]:
    """A set of images in batches, within whose block float32 is exact on every device.

    Args:
        images: uint8 (N, C, H, W).
        indices: the images' indices, (N); 0 to N - 1 if not given.
        batch_size: images at a time.
        group: the processes that share the images.
        progress: whether to show a bar.
    """
    share = group.share(len(images))
    indices = (torch.arange(len(images)) if indices is None else indices)[share]
    images = images[share]
    with exact_float32(), Bar(total=len(images), unit="image", disable=not progress) as bar:
        yield Sweep(images, indices, batch_size, bar)


def gathered(batches: list[dict[str, Tensor]], group: Group) -> dict[str, Tensor]:
    """Values of all images of all processes by name, (N) each, on the CPU.

    Args:
        batches: this process's, batch after batch, one value an image by name.
        group: the processes.
    """
    return {
        name: group.joined(torch.cat([values[name] for values in batches])) for name in batches[0]
    }
