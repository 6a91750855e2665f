"""Noise with a stream of its own for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["GlobalNoise", "ImageNoise", "Noise", "TileNoise"]


class Noise(Protocol):
    """Where a program's draws come from."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        """Standard normal noise for the site, of ``like``'s shape, type and device."""
        ...

    def uniform(self, site: str, like: Tensor) -> Tensor:
        """Noise uniform in [0, 1) likewise."""
        ...


class GlobalNoise:
    """PyTorch's global generator."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return torch.rand_like(like)


class ImageNoise:
    """Noise that depends on the seed, the image's number and the site's name alone.

    Image i has the same noise whatever batch it is in, on any device: it is drawn on the CPU. The
    same question has the same answer, however often it is asked.

    Args:
        seed: at least 0.
        images: the images' numbers, in the batch's order.
        dim: the images' dimension in what is asked for, from the right.
    """

    def __init__(self, seed: int, images: Sequence[int], dim: int = -4) -> None:
        self.seed = seed
        self.images = list(images)
        self.dim = dim

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(torch.randn, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(torch.rand, site, like)

    def _draw(self, source: Callable[..., Tensor], site: str, like: Tensor) -> Tensor:
        # Pyro's Predictive tries a program once without the images' dimension; what it draws then
        # is thrown away.
        if like.dim() < -self.dim or like.shape[self.dim] != len(self.images):
            return torch.zeros_like(like)
        shape = list(like.shape)
        del shape[self.dim + like.dim()]
        own = [source(shape, generator=self._generator(site, n)) for n in self.images]
        return torch.stack(own, dim=self.dim).to(like)

    def _generator(self, site: str, image: int) -> torch.Generator:
        # Hashed, so that neighbouring seeds and numbers have unrelated streams.
        entropy = (self.seed, image, *site.encode())
        state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class TileNoise:
    """A tile of a field of noise without end, the same wherever a tile of it is cut.

    Two tiles agree where they overlap. The field is made of blocks that depend on the numbers, the
    site's name and the block's place alone, so it is never held as a whole. Drawn on the CPU.

    Args:
        numbers: which field: a seed, a sample's number and the like, each at least 0.
        top: the tile's first row in the picture, in the picture's pixels.
        left: its first column.
        height: its rows, which tell what a site's resolution is to the picture's.
    """

    BLOCK = 64  # pixels a side, at the site's resolution

    def __init__(self, numbers: Sequence[int], top: int, left: int, height: int) -> None:
        self.numbers = tuple(numbers)
        self.top = top
        self.left = left
        self.height = height

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(torch.randn, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(torch.rand, site, like)

    def _draw(self, source: Callable[..., Tensor], site: str, like: Tensor) -> Tensor:
        channels, height, width = like.shape[-3:]
        top, left = (offset * height // self.height for offset in (self.top, self.left))
        rows, columns = _blocks(top, height, self.BLOCK), _blocks(left, width, self.BLOCK)
        field = like.new_empty((channels, height, width), device="cpu")
        for row in rows:
            for column in columns:
                generator = _generator(*self.numbers, row, column, *site.encode())
                block = source((channels, self.BLOCK, self.BLOCK), generator=generator)
                down, across = row * self.BLOCK - top, column * self.BLOCK - left
                target = field[
                    :, max(down, 0) : down + self.BLOCK, max(across, 0) : across + self.BLOCK
                ]
                block = block[:, max(-down, 0) :, max(-across, 0) :]
                target.copy_(block[:, : target.shape[1], : target.shape[2]])
        return field.to(like.device).expand_as(like)


def _blocks(start: int, count: int, size: int) -> range:
    """The numbers of the blocks that pixels ``start`` to ``start + count`` are in."""
    return range(start // size, (start + count - 1) // size + 1)


def _generator(*entropy: int) -> torch.Generator:
    """PyTorch's generator with a stream that is unrelated to those of other numbers."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
