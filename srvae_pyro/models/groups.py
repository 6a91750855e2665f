"""p(x|y,z) on the pictures that agree with y, by a network for each pixel of a block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import ConsistentGroups
from srvae_pyro.distributions.block_averages import PIXELS
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.models.group_networks import PixelGroups
from srvae_pyro.models.transforms import Transform
from srvae_pyro.networks import Decoder

__all__ = ["GroupsGivenLower"]


class GroupsGivenLower(nn.Module):
    """p(x|y,z) that is zero unless d(x) = y, for the transform average2, group after group.

    A decoder brings z to y's size; :class:`~srvae_pyro.models.group_networks.PixelGroups` see what
    it makes of z.

    Args:
        config: the model's; ``config.groups`` is of the pixels' networks.
        d: the y = d(x) of the level below, average2.
        channels: channels of x, and of y.
        lower_channels: the same.

    Example:
        >>> import torch
        >>> from srvae_pyro.config import Dense, Residual
        >>> from srvae_pyro.models.transforms import make_transform
        >>> config = ModelConfig(
        ...     latent_channels=4, components=2, p_x_from_z=Dense(8, 2), groups=Residual(4, 1)
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
        z = config.p_x_from_z
        first = ConsistentGroups.parameter_channels(config.components, channels, 0)
        detail = PIXELS * config.p_x_z_channels or first
        self.from_z = Decoder(config.latent_channels, detail, z, config.stages - 1, head=False)
        self.groups = PixelGroups(config, config.groups, channels, detail)

    def given(self, y: Tensor) -> Callable[[Tensor], ConsistentGroups]:
        """p(x|y, .) as a function of z, with y seen once for many z."""
        groups = self.groups.given(y)
        return lambda z: groups(over_images(self.from_z, z))

    def estimate(self, y: Tensor) -> Tensor | None:
        """The image (..., C, 2h, 2w) that is estimated of y alone, if the model's is to be."""
        return self.groups.estimate(y)

    def forward(self, y: Tensor, z: Tensor) -> ConsistentGroups:
        return self.given(y)(z)
