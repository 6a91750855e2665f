"""Networks of groups of pixels, each of which sees the pixels before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig, Residual
from srvae_pyro.distributions import ConsistentGroups, TruncatedMixture
from srvae_pyro.distributions.block_averages import PIXELS
from srvae_pyro.distributions.pixel_groups import image_of
from srvae_pyro.models.aims import LOCATION_SPREAD, aim_pixel
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.networks import (
    ResidualFeatures,
    ResidualHead,
    ResidualNetwork,
    aim_heads,
)

__all__ = ["PixelGroups"]


class PixelGroups(nn.Module):
    """An image of given rounded block averages y, by a network for each pixel of a block.

    Of the four pixels of a block each has a network of its own at y's size, which sees y, features
    of a latent, and how far the earlier pixels of all blocks are from their y; and, if there are
    ``size.shared`` blocks, what they make of y, once for all four and for all answers to a y. With
    ``size.estimate`` these blocks also say one image, from which locations then start instead of
    from y, and earlier pixels are seen as they differ from it.

    Args:
        config: the model's.
        size: of the networks.
        channels: channels of the image, and of y.
        features: channels of the features.

    Example:
        >>> groups = PixelGroups(ModelConfig(components=2), Residual(4, 1), channels=3, features=5)
        >>> y = torch.full((2, 3, 4, 4), 100 / 255)
        >>> groups(y, torch.randn(2, 5, 4, 4)).sample().shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, config: ModelConfig, size: Residual, channels: int, features: int) -> None:
        super().__init__()
        self.shared: ResidualFeatures | None = None
        if size.shared:
            self.shared = ResidualFeatures(channels, size.width, size.shared)
            features += size.width
        self.estimator: ResidualHead | None = None
        if size.estimate:
            self.estimator = ResidualHead(size.width, PIXELS * channels, size.blocks)
            aim_heads(self.estimator, LOCATION_SPREAD * config.likelihood_scale)
        self.networks = nn.ModuleList(
            ResidualNetwork(
                features + (1 + before) * channels,
                ConsistentGroups.parameter_channels(config.components, channels, before),
                size.width,
                size.blocks,
            )
            for before in range(PIXELS)
        )
        for before, network in enumerate(self.networks):
            aim_pixel(network, config, channels, before)

    def group(
        self,
        y: Tensor,
        features: Sequence[Tensor],
        estimates: Sequence[Tensor],
        before: Sequence[Tensor],
    ) -> TruncatedMixture:
        """The distribution of the next group, images (C, h, w).

        Args:
            y: the rounded averages (..., C, h, w).
            features: of the latent and, with shared blocks, of y, (..., F, h, w) each.
            estimates: of the four groups, of y's shape; none where there are no estimates.
            before: the earlier groups, of y's shape.
        """
        count = len(before)
        network = self.networks[count]

        def joined(y: Tensor, *rest: Tensor) -> Tensor:
            earlier, expected, seen = rest[:count], rest[count : 2 * count], rest[2 * count :]
            more = (pixel - one for pixel, one in zip(earlier, expected, strict=True))
            # About 0, where bfloat16 rounds pixels least; locations start from y or estimates.
            pixels = [*(part.to(y.dtype) for part in seen), y - 0.5, *more]
            out: Tensor = network(torch.cat(pixels, dim=1))
            return out

        expected = (estimates or [y] * PIXELS)[:count]
        parameters = over_images(joined, y, *before, *expected, *features)
        return ConsistentGroups.pixel(parameters, y, before, estimates)

    def of_y(self, y: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """What is seen of y alone.

        Args:
            y: the rounded averages (..., C, h, w).

        Returns:
            What the shared blocks make of it, (..., F, h, w), if there are any; and the estimates
            of the four groups, of y's shape, whose average y is, if they are made.
        """
        shared = self.shared
        if shared is None:
            return (), []
        seen = over_images(lambda y: shared(y - 0.5), y)
        if self.estimator is None:
            return (seen,), []
        apart = over_images(self.estimator, seen).unflatten(-3, (PIXELS, -1))
        estimates = y.unsqueeze(-4) + apart - apart.mean(-4, keepdim=True)
        return (seen,), list(estimates.unbind(-4))

    def estimate(self, y: Tensor) -> Tensor | None:
        """The image (..., C, 2h, 2w), not on the grid, that the shared blocks say for y."""
        _, estimates = self.of_y(y)
        return image_of(estimates) if estimates else None

    def given(
        self, y: Tensor, *, validate_args: bool | None = None
    ) -> Callable[[Tensor], ConsistentGroups]:
        """The image as a function of the latent's features, with y seen once for many of them.

        Args: as :meth:`forward`.
        """
        seen, estimates = self.of_y(y)
        estimate = image_of(estimates) if estimates else None

        def image(features: Tensor) -> ConsistentGroups:
            group = partial(self.group, y, (features, *seen), estimates)
            return ConsistentGroups(y, group, estimate, validate_args=validate_args)

        return image

    def forward(
        self, y: Tensor, features: Tensor, *, validate_args: bool | None = None
    ) -> ConsistentGroups:
        """The image given y.

        Args:
            y: the rounded averages (..., C, h, w), in float32 or better.
            features: of the latent, (..., F, h, w).
            validate_args: as of the distribution.
        """
        return self.given(y, validate_args=validate_args)(features)
