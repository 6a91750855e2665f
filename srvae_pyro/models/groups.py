"""p(x|y,z) on the pictures that agree with y, by a network for each pixel of a block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import ConsistentGroups, TruncatedMixture
from srvae_pyro.distributions.blocks import PIXELS
from srvae_pyro.models.aims import aim_pixel
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.models.group_networks import group_network, group_parameters
from srvae_pyro.models.transforms import Transform
from srvae_pyro.networks import Decoder

__all__ = ["GroupsGivenLower"]


class GroupsGivenLower(nn.Module):
    """p(x|y,z) that is zero unless d(x) = y, for the transform average2, group after group.

    A decoder brings z to y's size. Of the four pixels of a block each has a network of its own at
    y's size, which sees y, what the decoder makes of z, and how far the earlier pixels of all
    blocks are from their y.

    Args:
        config: the model's; ``config.groups`` is of the pixels' networks.
        d: the y = d(x) of the level below, average2.
        channels: channels of x, and of y.
        lower_channels: the same.

    Example:
        >>> import torch
        >>> from srvae_pyro.config import Dense
        >>> from srvae_pyro.models.transforms import make_transform
        >>> config = ModelConfig(
        ...     latent_channels=4, components=2, p_x_from_z=Dense(8, 2), groups=Dense(4, 2)
        ... )
        >>> d = make_transform("average2")
        >>> p_x = GroupsGivenLower(config, d, 3, 3)
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
        parameters = [
            ConsistentGroups.parameter_channels(config.components, channels, pixel)
            for pixel in range(PIXELS)
        ]
        detail = PIXELS * config.p_x_z_channels or parameters[0]
        z = config.p_x_from_z
        self.from_z = Decoder(
            config.latent_channels, detail, z.growth, z.steps, config.stages - 1, head=False
        )
        self.groups = nn.ModuleList(
            group_network(detail, lower_channels + pixel * channels, out, config.groups)
            for pixel, out in enumerate(parameters)
        )
        for pixel, network in enumerate(self.groups):
            aim_pixel(network, config, channels, pixel)

    def pixel(self, y: Tensor, features: Tensor, before: Sequence[Tensor]) -> TruncatedMixture:
        """The distribution of the next group, images (C, h, w).

        Args:
            y: the rounded averages (..., C, h, w).
            features: of z, (..., F, h, w).
            before: the earlier groups, of y's shape.
        """
        network = self.groups[len(before)]
        parameters = group_parameters(network, features, y, *before, relative=True)
        return ConsistentGroups.pixel(parameters, y, before)

    def following(
        self, y: Tensor, features: Tensor, first: Tensor, groups: Sequence[Tensor]
    ) -> TruncatedMixture:
        """As :meth:`pixel`, after the first group and those that came next."""
        return self.pixel(y, features, [first, *groups])

    def forward(self, y: Tensor, z: Tensor) -> ConsistentGroups:
        features = over_images(self.from_z, z)
        return ConsistentGroups(
            y, self.pixel(y, features, ()), partial(self.following, y, features)
        )
