"""Noise with a stream of its own for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.system.device import sent
from srvae_pyro.system.streams import stream

__all__ = ["GlobalNoise", "ImageNoise", "Noise", "TileNoise"]


Source = Callable[[np.random.Generator, Sequence[int]], np.ndarray]


class Noise(Protocol):
    """Where a program's draws come from."""

    def normal(self, site: str, like: Tensor) -> Tensor:
        """Standard normal noise for the site, of ``like``'s shape, type and device."""
        ...

    def uniform(self, site: str, like: Tensor) -> Tensor:
        """Noise uniform in [0, 1) likewise."""
        ...


def _normal(own: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return own.standard_normal(tuple(shape), dtype=np.float32)


def _uniform(own: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return own.random(tuple(shape), dtype=np.float32)


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
        seed: at least 0; or several numbers: a seed, a sample's number and the like.
        images: the images' numbers, in the batch's order.
        dim: the images' dimension in what is asked for, from the right.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        images: Sequence[int],
        dim: int = -4,
    ) -> None:
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self.images = list(images)
        self.dim = dim

    def normal(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_normal, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_uniform, site, like)

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        if like.dim() < -self.dim or like.shape[self.dim] != len(self.images):
            raise ValueError(
                f"site {site} asks for noise of shape {tuple(like.shape)}, of which dimension "
                f"{self.dim} is not that of {len(self.images)} images"
            )
        shape = list(like.shape)
        del shape[self.dim + like.dim()]
        own = [source(stream(*self.seed, n, *site.encode()), shape) for n in self.images]
        drawn = torch.from_numpy(np.stack(own, axis=self.dim)).to(like.dtype)
        return sent(drawn, like.device)


class TileNoise:
    """A tile of an infinite noise field; overlapping tiles see the same values.

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
        return self._draw(_normal, site, like)

    def uniform(self, site: str, like: Tensor) -> Tensor:
        return self._draw(_uniform, site, like)

    def _draw(self, source: Source, site: str, like: Tensor) -> Tensor:
        channels, height, width = like.shape[-3:]
        top, left = (offset * height // self.height for offset in (self.top, self.left))
        rows, columns = _blocks(top, height, self.BLOCK), _blocks(left, width, self.BLOCK)
        field = like.new_empty((channels, height, width), device="cpu")
        for row in rows:
            for column in columns:
                own = stream(*self.numbers, row, column, *site.encode())
                block = torch.from_numpy(source(own, (channels, self.BLOCK, self.BLOCK)))
                down, across = row * self.BLOCK - top, column * self.BLOCK - left
                target = field[
                    :, max(down, 0) : down + self.BLOCK, max(across, 0) : across + self.BLOCK
                ]
                block = block[:, max(-down, 0) :, max(-across, 0) :]
                target.copy_(block[:, : target.shape[1], : target.shape[2]])
        return sent(field, like.device).expand_as(like)


def _blocks(start: int, count: int, size: int) -> range:
    """The numbers of the blocks that pixels ``start`` to ``start + count`` are in."""
    return range(start // size, (start + count - 1) // size + 1)
