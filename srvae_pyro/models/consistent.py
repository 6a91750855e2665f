"""p(x|y,z) on the pictures that agree with y, as a network at y's size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import ConsistentMixture
from srvae_pyro.distributions.blocks import PIXELS
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.models.transforms import Transform
from srvae_pyro.networks import Decoder, PlainNetwork, aim_heads

__all__ = ["ConsistentGivenLower", "aim_consistent"]

LOG_SCALES = (-5.0, -2.0)  # at the start, spread over the components
COLOURS = (0.8, 0.0, 0.8)  # coefficients at the start: each colour goes with the one before
LOCATION_SPREAD = 0.1  # of the locations at the start, which are relative to y, to other parameters


def aim_consistent(network: nn.Module, config: ModelConfig, channels: int) -> None:
    """Set what the initialisation of the head of a likelihood that agrees with y aims at.

    Args:
        network: ends in the head.
        config: the model's.
        channels: channels of the image.
    """
    k = config.components
    colours = PIXELS * k * channels
    mean = torch.zeros(ConsistentMixture.parameter_channels(k, channels))
    scale = torch.full_like(mean, config.likelihood_scale)
    locations, log_scales, coefficients = (
        slice(PIXELS * k + i * colours, PIXELS * k + (i + 1) * colours) for i in range(3)
    )
    scale[locations] *= LOCATION_SPREAD
    start = torch.linspace(*LOG_SCALES, k) if k > 1 else torch.tensor([sum(LOG_SCALES) / 2])
    mean[log_scales] = start.repeat_interleave(channels).repeat(PIXELS)
    if channels == 3:
        mean[coefficients] = torch.tensor([math.atanh(c) for c in COLOURS]).repeat(PIXELS * k)
    aim_heads(network, scale, mean)


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
        z, joint = config.p_x_from_z, config.p_x
        detail = PIXELS * config.p_x_z_channels or out
        self.from_z = Decoder(
            config.latent_channels, detail, z.growth, z.steps, config.stages - 1, head=False
        )
        self.joint = PlainNetwork(
            lower_channels + detail,
            out,
            joint.growth,
            joint.steps,
            joint.blocks,
            full_precision_input=True,
        )
        aim_consistent(self.joint, config, channels)

    def network(self, y: Tensor, z: Tensor) -> Tensor:
        """(B, channels of the likelihood, h, w), from y (B, C, h, w) and z."""
        # In float32: bfloat16 would round y by up to half a level of 256.
        return self.joint(torch.cat([y, self.from_z(z).to(y.dtype)], dim=1))

    def parameters_of(self, y: Tensor, z: Tensor) -> Tensor:
        """(..., channels of the likelihood, h, w)."""
        return over_images(self.network, y, z)

    def forward(self, y: Tensor, z: Tensor) -> ConsistentMixture:
        return ConsistentMixture.from_channels(self.parameters_of(y, z), y)
