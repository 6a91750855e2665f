"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from srvae_pyro.models import ImageModel

__all__ = ["ExponentialAverage"]


class ExponentialAverage:
    """An exponential moving average of a model's weights, over the images it has learnt from.

    The half-life is given in images, so that it means the same at every batch size, and is at most
    5% of the images seen, so that the first weights are soon forgotten (Karras et al., Elucidating
    the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364, appendix F.2).

    Attributes:
        module: a copy of the model, which holds the average.

    Args:
        module: the model, initialised.
        half_life: in images.
    """

    RAMP = 0.05

    def __init__(self, module: ImageModel, half_life: float) -> None:
        self.half_life = half_life
        self.module: ImageModel = copy.deepcopy(module).requires_grad_(False)
        self._average: list[Tensor] = list(self.module.parameters())
        self._source: list[Tensor] = list(module.parameters())

    def decay(self, images_seen: int, batch: int) -> float:
        """The weight of the old average in an update of ``batch`` images."""
        half_life = min(self.half_life, self.RAMP * images_seen)
        return 0.5 ** (batch / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Take in the weights after an update of ``batch`` images, ``images_seen`` in all."""
        weight = 1 - self.decay(images_seen, batch)
        torch._foreach_lerp_(self._average, self._source, weight)
