"""Noise with a stream of its own for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["GlobalNoise", "ImageNoise", "Noise"]


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
