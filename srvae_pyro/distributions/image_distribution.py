"""The base class of likelihoods of 8-bit images, with their constraints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.block_averages import Block
from srvae_pyro.pixels import LAST_LEVEL, to_levels


class _ImageGrid(constraints.Constraint):
    """Images (..., C, H, W) with all values on the grid k / 255, to a thousandth of a step."""

    is_discrete = True
    event_dim = 3

    def check(self, value: Tensor) -> Tensor:
        step = at_least_float32(value) * LAST_LEVEL  # else all would be near the grid
        nearest = step.round().clamp(0, LAST_LEVEL)
        return ((step - nearest).abs() <= 1e-3).flatten(-3).all(-1)

    def __repr__(self) -> str:
        return "image_grid"


image_grid = _ImageGrid()


class ImagesAveragingTo(constraints.Constraint):
    """Images (..., C, f h, f w) on the grid whose blocks have the rounded averages y."""

    is_discrete = True
    event_dim = 3

    def __init__(self, y: Tensor, block: Block) -> None:
        self.y, self.block = y, block
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        sums = self.block.split(to_levels(value)).sum(-4)
        least, most = self.block.allowed_sums(to_levels(self.y))
        is_consistent = ((least <= sums) & (sums <= most)).flatten(-3).all(-1)
        return is_consistent & image_grid.check(value)

    def __repr__(self) -> str:
        side = self.block.factor
        return f"images whose {side}x{side} blocks have the rounded averages y"


def at_least_float32(parameter: Tensor) -> Tensor:
    """The tensor, converted to float32 if its precision is lower."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on the tensor's device keep their precision."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


class ImageDistribution(TorchDistribution):
    """A distribution over images (C, H, W) with values on the grid k / 255 of [0, 1].

    A subclass with ``expand``, ``log_prob`` or ``_log_prob``, and the members below works in all
    operations, at any temperature, with a stream of noise for each image.
    """

    # Whether log_prob runs networks, under autocast; the distributions it sums disable autocast.
    asks_networks = False

    support = image_grid
    has_rsample = False
    has_enumerate_support = False

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of each image (..., C, H, W), whose values are on the grid."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.uniform_noise.dtype)
        if self.asks_networks:
            return self._log_prob(value)
        with without_autocast(value):
            return self._log_prob(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        """:meth:`log_prob` of a value in the parameters' precision."""
        raise NotImplementedError

    @property
    def uniform_noise(self) -> Tensor:
        """A tensor with the shape, type and device of the noise for :meth:`icdf_sample`."""
        raise NotImplementedError

    def icdf_sample(self, uniform: Tensor) -> Tensor:
        """Images (..., C, H, W) on the grid from uniform noise (..., N, H, W) in [0, 1)."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The likeliest levels, (..., C, H, W) on the grid, or nearly so."""
        raise NotImplementedError

    @property
    def location(self) -> Tensor:
        """An image without noise, (..., C, H, W) on the grid; by default the mode.

        A wide distribution has its mode at 0 or 255, which have the tails, wherever its location.
        """
        return self.mode

    @property
    def mean(self) -> Tensor:
        """The expectation, (..., C, H, W), which is not on the grid."""
        raise NotImplementedError

    def with_temperature(self, temperature: float) -> ImageDistribution:
        """The same with its noise multiplied by a positive temperature."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Images (sample_shape, batch_shape, C, H, W) by PyTorch's global generator."""
        like = self.uniform_noise
        return self.icdf_sample(like.new_empty(torch.Size(sample_shape) + like.shape).uniform_())
