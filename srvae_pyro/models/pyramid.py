"""p(y|u), or the one-level VAE's p(x|z), from coarse to fine."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import ConsistentGroups, DiscretizedLogisticMixture, Pyramid
from srvae_pyro.models.aims import aim_likelihood
from srvae_pyro.models.conditionals import ImageGivenLatent, over_images
from srvae_pyro.models.group_networks import PixelGroups
from srvae_pyro.networks import DenseBlock, WeightNormConv2d, WeightNormConvTranspose2d

__all__ = ["PyramidGivenLatent", "image_given_latent"]


def image_given_latent(
    config: ModelConfig, channels: int, dense: Dense, stages: int
) -> ImageGivenLatent | PyramidGivenLatent:
    """The network that ``config.latent_likelihood`` names; arguments as of either."""
    pyramid = config.latent_likelihood == "pyramid"
    return (PyramidGivenLatent if pyramid else ImageGivenLatent)(config, channels, dense, stages)


class PyramidGivenLatent(nn.Module):
    """p(y|u), or the one-level VAE's p(x|z), by networks for each level.

    A dense block of the latent gives the coarsest image's parameters by a 1x1 convolution, and,
    doubled in size once a level, the features that the next finer image's
    :class:`~srvae_pyro.models.group_networks.PixelGroups` see of the latent, at the coarser size.

    Args:
        config: the model's; ``config.pyramid`` is of the groups' networks.
        channels: channels of the image.
        dense: of the block that sees the latent alone.
        stages: how often the resolution is doubled: the levels.

    Example:
        >>> import torch
        >>> from srvae_pyro.config import Residual
        >>> config = ModelConfig(latent_channels=4, components=2, pyramid=Residual(4, 1))
        >>> p_y = PyramidGivenLatent(config, channels=3, dense=Dense(8, 2), stages=2)
        >>> likelihood = p_y(torch.randn(5, 4, 4, 4))
        >>> y = likelihood.sample()
        >>> y.shape, likelihood.log_prob(y).shape
        (torch.Size([5, 3, 16, 16]), torch.Size([5]))
    """

    def __init__(self, config: ModelConfig, channels: int, dense: Dense, stages: int) -> None:
        super().__init__()
        self.channels = channels
        out = DiscretizedLogisticMixture.parameter_channels(config.components, channels)
        self.trunk = DenseBlock(
            config.latent_channels, dense.growth, dense.steps, attention=dense.attention
        )
        self.coarsest = WeightNormConv2d(self.trunk.out_channels, out, 1, head=True)
        aim_likelihood(self.coarsest, config, channels)
        seen = config.pyramid_channels
        self.lifts, self.levels = nn.ModuleList(), nn.ModuleList()
        for level in range(stages):
            if level == 0:
                self.lifts.append(WeightNormConv2d(self.trunk.out_channels, seen, 1))
            else:
                wide = self.trunk.out_channels if level == 1 else seen
                self.lifts.append(WeightNormConvTranspose2d(wide, seen))
            self.levels.append(PixelGroups(config, config.pyramid, channels, seen))

    def features(self, trunk: Tensor) -> list[Tensor]:
        """What the networks see of the latent, (..., F, h, w), a level after the other.

        Args:
            trunk: the trunk's output.
        """
        features: list[Tensor] = []
        for level, lift in enumerate(self.lifts):
            source = features[-1] if level > 1 else trunk
            features.append(F.elu(over_images(lift, source)))
        return features

    def finer(self, level: int, features: Tensor, coarser: Tensor) -> ConsistentGroups:
        """The distribution of the image of twice the size of ``coarser``, (..., C, h, w)."""
        groups: ConsistentGroups = self.levels[level](
            coarser,
            features,
            validate_args=False,  # expectations are off the grid
        )
        return groups

    def forward(self, latent: Tensor) -> Pyramid:
        trunk = over_images(self.trunk, latent)
        parameters = over_images(self.coarsest, trunk)
        return Pyramid(
            DiscretizedLogisticMixture.from_channels(parameters, self.channels),
            [partial(self.finer, *level) for level in enumerate(self.features(trunk))],
        )
