"""p(x|y,z) on the pictures that agree with y, as a network at y's size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import ConsistentMixture
from srvae_pyro.distributions.blocks import PIXELS
from srvae_pyro.models.aims import aim_consistent
from srvae_pyro.models.conditionals import joint_networks, over_images
from srvae_pyro.models.transforms import Transform

__all__ = ["ConsistentGivenLower"]


class ConsistentGivenLower(nn.Module):
    """p(x|y,z) that is zero unless d(x) = y, for the transform average2.

    Both networks work at y's size, a quarter of x's positions, with the parameters of the four
    pixels of a block in the channels.

    Args:
        config: the model's.
        d: the y = d(x) of the level below, average2.
        channels: channels of x, and of y.
        lower_channels: the same.

    Example:
        >>> from srvae_pyro.config import Dense
        >>> from srvae_pyro.models.transforms import make_transform
        >>> config = ModelConfig(
        ...     latent_channels=4, components=2, p_x_from_z=Dense(8, 2), p_x=Dense(4, 2, blocks=1)
        ... )
        >>> d = make_transform("average2")
        >>> p_x = ConsistentGivenLower(config, d, 3, 3)
        >>> y = d(torch.rand(5, 3, 32, 32))
        >>> likelihood = p_x(y, torch.randn(5, 4, 8, 8))
        >>> x = likelihood.sample()
        >>> x.shape, torch.equal(d(x), y), likelihood.log_prob(x).shape
        (torch.Size([5, 3, 32, 32]), True, torch.Size([5]))
    """

    def __init__(
        self, config: ModelConfig, d: Transform, channels: int, lower_channels: int
    ) -> None:
        super().__init__()
        self.d = d
        out = ConsistentMixture.parameter_channels(config.components, channels)
        detail = PIXELS * config.p_x_z_channels or out
        self.from_z, self.of_block = joint_networks(
            config, config.stages - 1, lower_channels, detail, out
        )
        aim_consistent(self.of_block, config, channels)

    def network(self, y: Tensor, z: Tensor) -> Tensor:
        """(B, channels of the likelihood, h, w), from y (B, C, h, w) and z."""
        # In float32: bfloat16 would round y by up to half a level of 256.
        return self.of_block(torch.cat([y, self.from_z(z).to(y.dtype)], dim=1))

    def parameters_of(self, y: Tensor, z: Tensor) -> Tensor:
        """(..., channels of the likelihood, h, w)."""
        return over_images(self.network, y, z)

    def forward(self, y: Tensor, z: Tensor) -> ConsistentMixture:
        return ConsistentMixture.from_channels(self.parameters_of(y, z), y)
