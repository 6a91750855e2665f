"""p(y|u), or the one-level VAE's p(x|z), from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import DiscretizedLogisticMixture, Pyramid
from srvae_pyro.distributions.pyramid import GROUPS
from srvae_pyro.models.aims import aim_likelihood, aim_relative_likelihood
from srvae_pyro.models.conditionals import ImageGivenLatent, over_images
from srvae_pyro.networks import (
    DenseBlock,
    PlainNetwork,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
)

__all__ = ["PyramidGivenLatent", "image_given_latent"]


def image_given_latent(
    config: ModelConfig, channels: int, dense: Dense, stages: int
) -> ImageGivenLatent | PyramidGivenLatent:
    """The network that ``config.latent_likelihood`` names; arguments as of either."""
    pyramid = config.latent_likelihood == "pyramid"
    return (PyramidGivenLatent if pyramid else ImageGivenLatent)(config, channels, dense, stages)


class PyramidGivenLatent(nn.Module):
    """p(y|u), or the one-level VAE's p(x|z), by a network for each part of the image.

    A dense block of the latent gives the coarsest image's parameters by a 1x1 convolution, and,
    doubled in size once a level, what the networks of the groups see of the latent. Each of these
    works at the coarser size and sees the coarser image and the groups before too. Its locations
    are relative to the mean of the nearest four of the pixels known, and each colour's to how far
    the colours before are from theirs.

    Args:
        config: the model's; ``config.pyramid`` is of the groups' networks.
        channels: channels of the image.
        dense: of the block that sees the latent alone.
        stages: how often the resolution is doubled: the levels.

    Example:
        >>> config = ModelConfig(latent_channels=4, components=2, pyramid=Dense(4, 1))
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
        self.trunk = DenseBlock(config.latent_channels, dense.growth, dense.steps)
        self.coarsest = WeightNormConv2d(self.trunk.out_channels, out, 1, head=True)
        aim_likelihood(self.coarsest, config, channels)
        seen = config.pyramid_channels
        self.lifts, self.groups = nn.ModuleList(), nn.ModuleList()
        for level in range(stages):
            if level == 0:
                self.lifts.append(WeightNormConv2d(self.trunk.out_channels, seen, 1))
            else:
                wide = self.trunk.out_channels if level == 1 else seen
                self.lifts.append(WeightNormConvTranspose2d(wide, seen))
            self.groups.append(
                nn.ModuleList(
                    PlainNetwork(
                        seen + (1 + before) * channels,
                        out,
                        config.pyramid.growth,
                        config.pyramid.steps,
                        config.pyramid.blocks,
                        full_precision_input=True,
                    )
                    for before in range(len(GROUPS))
                )
            )
        aim_relative_likelihood(self.groups, config, channels)

    def features(self, trunk: Tensor) -> list[Tensor]:
        """What the groups' networks see of the latent, (..., F, h, w), a level after the other.

        Args:
            trunk: the trunk's output.
        """
        features: list[Tensor] = []
        for level, lift in enumerate(self.lifts):
            source = features[-1] if level > 1 else trunk
            features.append(F.elu(over_images(lift, source)))
        return features

    def group(
        self, level: int, features: Tensor, coarser: Tensor, groups: Sequence[Tensor]
    ) -> DiscretizedLogisticMixture:
        """The distribution of a level's next group; see :class:`~srvae_pyro.distributions.Pyramid`.

        Args:
            level: 0 is the coarsest image's size.
            features: of the level.
            coarser: the coarser image (..., C, h, w).
            groups: those before, of the same shape.
        """

        # In float32: bfloat16 would round pixels by up to half a level of 256.
        def joined(features: Tensor, *pixels: Tensor) -> Tensor:
            seen = torch.cat([features.to(pixels[0].dtype), *pixels], dim=1)
            out: Tensor = networks[len(groups)](seen)
            return out

        networks = cast("nn.ModuleList", self.groups[level])
        parameters = over_images(joined, features, coarser, *groups)
        return relative_mixture(parameters, nearest_four(coarser, groups))

    def forward(self, latent: Tensor) -> Pyramid:
        trunk = over_images(self.trunk, latent)
        parameters = over_images(self.coarsest, trunk)
        features = self.features(trunk)
        return Pyramid(
            DiscretizedLogisticMixture.from_channels(parameters, self.channels),
            [partial(self.group, level, features[level]) for level in range(len(self.groups))],
        )


def nearest_four(coarser: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """The mean of the four pixels nearest to each of the next group among those known.

    At the borders the outermost pixels are repeated.

    Args:
        coarser: pixels (0, 0) of each block of 2x2, (..., C, h, w).
        groups: those of the groups before, at (1, 1) and then (0, 1).
    """
    right, below = _next(coarser, -1), _next(coarser, -2)
    if not groups:  # (1, 1), in the middle of four blocks' pixels
        return (coarser + right + below + _next(right, -2)) / 4
    middle = groups[0]
    if len(groups) == 1:  # (0, 1)
        return (coarser + right + middle + _before(middle, -2)) / 4
    return (coarser + below + middle + _before(middle, -1)) / 4


def _next(x: Tensor, dim: int) -> Tensor:
    """Each pixel's next one along ``dim``; the last one's is itself."""
    size = x.shape[dim]
    return torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)


def _before(x: Tensor, dim: int) -> Tensor:
    """Each pixel's one before along ``dim``; the first one's is itself."""
    return torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def relative_mixture(parameters: Tensor, reference: Tensor) -> DiscretizedLogisticMixture:
    r"""The mixture whose locations are relative to a reference r, an image (..., C, H, W).

    .. math:: \mu_c = r_c + m_c + \sum_{c' < c} a_{c'} (x_{c'} - r_{c'})

    Args:
        parameters: of channels as :meth:`DiscretizedLogisticMixture.from_channels` takes.
        reference: the reference.
    """
    mixture = DiscretizedLogisticMixture.from_channels(parameters, reference.shape[-3])
    reference = reference.to(mixture.means.dtype).unsqueeze(-4)  # (..., 1, C, H, W)
    means = mixture.means + reference
    if mixture.coefficients is not None:
        # For (green, red), (blue, red), (blue, green): red, red, green. By a list of indices a GPU
        # would have to wait for these to be copied to it.
        red_and_green = reference[..., :2, :, :]
        of = torch.cat([red_and_green[..., :1, :, :], red_and_green], dim=-3)
        earlier = mixture.coefficients * of
        zero, of_green, of_blue, of_blue_too = F.pad(earlier, (0, 0, 0, 0, 1, 0)).unbind(-3)
        means = means - torch.stack([zero, of_green, of_blue + of_blue_too], dim=-3)
    return DiscretizedLogisticMixture(
        mixture.logits, means, mixture.log_scales, mixture.coefficients
    )
