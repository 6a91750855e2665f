"""Images whose 2x2 blocks have given rounded averages, a pixel of all blocks after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.chain import levels_of, next_pixel
from srvae_pyro.distributions.constraints import image_grid, images_averaging_to
from srvae_pyro.distributions.images import ImageDistribution
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.precision import at_least_float32
from srvae_pyro.distributions.pyramid import Finer, Pyramid
from srvae_pyro.distributions.truncated_mixture import TruncatedMixture, truncatable

__all__ = ["ConsistentGroups"]


class ConsistentGroups(Pyramid):
    r"""The images x whose rounded block averages are y, in groups of pixels.

    A :class:`~srvae_pyro.distributions.Pyramid` of one level: the first pixels of all blocks are an
    image of y's size, and three groups follow. Each is truncated to the levels that still allow y,

    .. math:: p(x|y) = \prod_{g=1}^{4} p(x_g | x_{<g}, y),

    so d(x) = y, as of :class:`~srvae_pyro.distributions.ConsistentMixture`; but what gives the
    distribution of a group may see the earlier groups of all blocks.

    References:
        Reed et al., Parallel Multiscale Autoregressive Density Estimation, 2017, arXiv:1703.03664,
        for the groups; Cao et al., Lossless Image Compression through Super-Resolution, 2020,
        arXiv:2004.02872, for groups that are given their average.

    Args:
        y: the rounded averages, images (..., C, h, w) on the grid.
        first: the distribution of the first group, images (C, h, w) within the levels that
            :meth:`pixel` finds.
        following: what gives that of the next, from the first group and those after it.
        validate_args: whether to check arguments and scored values.

    Example:
        >>> y = torch.full((2, 3, 4, 4), 100 / 255)
        >>> def pixel(first=None, groups=()):  # around what is left for it
        ...     before = () if first is None else (first, *groups)
        ...     channels = ConsistentGroups.parameter_channels(1, 3, len(before))
        ...     return ConsistentGroups.pixel(torch.zeros(2, channels, 4, 4), y, before)
        >>> x = ConsistentGroups(y, pixel(), pixel).sample()
        >>> sums = (255 * torch.nn.functional.avg_pool2d(x, 2, divisor_override=1)).round().int()
        >>> x.shape, bool((sums + 2 >> 2 == 100).all())
        (torch.Size([2, 3, 8, 8]), True)
    """

    arg_constraints = {"y": image_grid}  # noqa: RUF012 (declared by the base class)

    def __init__(
        self,
        y: Tensor,
        first: ImageDistribution,
        following: Finer,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.y = at_least_float32(y)
        super().__init__(first, [following], validate_args=validate_args)

    @staticmethod
    def parameter_channels(components: int, channels: int, pixel: int) -> int:
        """Number of channels that :meth:`pixel` takes for the groups 0 to 3."""
        one = DiscretizedLogisticMixture.parameter_channels(components, channels)
        return one + pixel * channels

    @staticmethod
    def pixel(parameters: Tensor, y: Tensor, before: Sequence[Tensor]) -> TruncatedMixture:
        """The distribution of a group, its locations relative to what is left for it.

        With linear terms in the earlier pixels of the block.

        Args:
            parameters: a network's output (..., parameter_channels(K, C, n), h, w): as
                :meth:`~srvae_pyro.distributions.DiscretizedLogisticMixture.from_channels` takes
                them, then the coefficients of the n earlier pixels before tanh, (pixel, colour).
                Log-scales are clamped to [-7, 7].
            y: the rounded averages (..., C, h, w), in float32 or better.
            before: the n groups before, of the same shape.
        """
        channels, count = y.shape[-3], len(before)
        linear = count * channels
        parameters = at_least_float32(parameters).contiguous()
        of_mixture, weights = parameters.split([parameters.shape[-3] - linear, linear], -3)
        weights = weights.unflatten(-3, (count, channels)).tanh()
        known = next_pixel([levels_of(pixel) for pixel in before], levels_of(y), weights)
        return TruncatedMixture(truncatable(of_mixture, channels), known)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """The images on the grid whose rounded block averages are y."""
        return images_averaging_to(self.y)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> ConsistentGroups:
        """The same distribution with a larger batch shape; nothing is computed or copied."""
        new = self._get_checked_instance(ConsistentGroups, _instance)
        new.y = self.y
        super().expand(batch_shape, new)
        return new

    def with_temperature(self, temperature: float) -> ConsistentGroups:
        """The same of the groups' distributions, each at a positive temperature."""
        pyramid = super().with_temperature(temperature)
        return ConsistentGroups(
            self.y, pyramid.coarsest, pyramid.finer[0], validate_args=self._validate_args
        )
