"""Networks of groups of pixels, each of which sees the pixels before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from srvae_pyro.config import Dense, ModelConfig
from srvae_pyro.distributions import ConsistentGroups, TruncatedMixture
from srvae_pyro.distributions.blocks import PIXELS
from srvae_pyro.models.aims import aim_pixel
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.networks import PlainNetwork

__all__ = ["PixelGroups"]


class PixelGroups(nn.Module):
    """An image of given rounded block averages y, by a network for each pixel of a block.

    Of the four pixels of a block each has a network of its own at y's size, which sees y, features
    of a latent, and how far the earlier pixels of all blocks are from their y.

    Args:
        config: the model's.
        dense: of the networks.
        channels: channels of the image, and of y.
        features: channels of the features.

    Example:
        >>> groups = PixelGroups(ModelConfig(components=2), Dense(4, 2), channels=3, features=5)
        >>> y = torch.full((2, 3, 4, 4), 100 / 255)
        >>> groups(y, torch.randn(2, 5, 4, 4)).sample().shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, config: ModelConfig, dense: Dense, channels: int, features: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            PlainNetwork(
                features + (1 + before) * channels,
                ConsistentGroups.parameter_channels(config.components, channels, before),
                dense.growth,
                dense.steps,
                dense.blocks,
                # In float32 at first: bfloat16 would round pixels by up to half a level of 256.
                full_precision_input=True,
            )
            for before in range(PIXELS)
        )
        for before, network in enumerate(self.networks):
            aim_pixel(network, config, channels, before)

    def group(self, y: Tensor, features: Tensor, before: Sequence[Tensor]) -> TruncatedMixture:
        """The distribution of the next group, images (C, h, w).

        Args:
            y: the rounded averages (..., C, h, w).
            features: of the latent, (..., F, h, w).
            before: the earlier groups, of y's shape.
        """
        network = self.networks[len(before)]

        def joined(features: Tensor, y: Tensor, *before: Tensor) -> Tensor:
            pixels = [y, *(pixel - y for pixel in before)]
            out: Tensor = network(torch.cat([features.to(y.dtype), *pixels], dim=1))
            return out

        parameters = over_images(joined, features, y, *before)
        return ConsistentGroups.pixel(parameters, y, before)

    def forward(self, y: Tensor, features: Tensor) -> ConsistentGroups:
        return ConsistentGroups(y, partial(self.group, y, features))
