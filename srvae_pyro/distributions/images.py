"""What the likelihoods of 8-bit images have in common: they can be drawn from given noise."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from srvae_pyro.distributions.constraints import image_grid
from srvae_pyro.distributions.precision import without_autocast

__all__ = ["ImageDistribution"]


class ImageDistribution(TorchDistribution):
    """A distribution over images (C, H, W) with values on the grid k / 255 of [0, 1].

    A likelihood is a subclass with ``expand``, as every Pyro distribution has it, ``log_prob`` or
    ``_log_prob``, and with what is declared here; then all operations work on it, at any
    temperature, with a stream of noise for each image.
    """

    # Whether log_prob has networks compute, in whatever precision autocast has; then it adds up
    # what other such distributions score, which keep their own precision.
    asks_networks = False

    support = image_grid
    has_rsample = False
    has_enumerate_support = False

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of each image (..., C, H, W), whose values are on the grid."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.noise_like.dtype)
        if self.asks_networks:
            return self._log_prob(value)
        with without_autocast(value):
            return self._log_prob(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        """What :meth:`log_prob` computes, of a value in the parameters' precision."""
        raise NotImplementedError

    @property
    def noise_like(self) -> Tensor:
        """Of the shape (..., N, H, W), type and device of the noise for a :meth:`draw`."""
        raise NotImplementedError

    def draw(self, uniform: Tensor) -> Tensor:
        """The sample that uniform noise makes.

        Args:
            uniform: (..., N, H, W) in [0, 1), N numbers a pixel.

        Returns:
            Images (..., C, H, W) on the grid.
        """
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The likeliest levels, (..., C, H, W) on the grid, as nearly as they are known."""
        raise NotImplementedError

    @property
    def location(self) -> Tensor:
        """A picture without noise, (..., C, H, W) on the grid: what is shown as the mode.

        The mode itself, unless a subclass has locations. Levels 0 and 255 have the tails, so that
        of a wide distribution one of them is the mode, wherever its location is.
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
        like = self.noise_like
        return self.draw(like.new_empty(torch.Size(sample_shape) + like.shape).uniform_())
