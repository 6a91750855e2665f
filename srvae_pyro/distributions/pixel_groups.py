"""Images whose blocks have given rounded averages, one pixel of every block at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.block_averages import PAIRS, Block, levels_of
from srvae_pyro.distributions.image_distribution import (
    ImageDistribution,
    ImagesAveragingTo,
    at_least_float32,
    image_grid,
)
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.truncated_mixture import TruncatedMixture
from srvae_pyro.pixels import LAST_LEVEL

MOST_LOG_SCALE = 7.0
GroupGiven = Callable[[Sequence[Tensor]], ImageDistribution]


class ConsistentGroups(ImageDistribution):
    r"""Images x with rounded block averages y, by groups of pixels: multi-scale autoregressive.

    A group has one pixel of every block: of 2x2 the first, the diagonally opposite one, the other
    two. Each is truncated to the levels that still allow y,

    .. math:: p(x|y) = \prod_{g} p(x_g | x_{<g}, y),

    so d(x) = y. A group's distribution may depend on the earlier groups of all blocks: ``log_prob``
    computes them from the value's own pixels, ``icdf_sample`` one after the other.

    References:
        Reed et al., Parallel Multiscale Autoregressive Density Estimation, 2017, arXiv:1703.03664,
        for the groups; Cao et al., Lossless Image Compression through Super-Resolution, 2020,
        arXiv:2004.02872, for groups that are given their average.

    Args:
        y: the rounded averages, images (..., C, h, w) on the grid.
        group: from the earlier groups, none at first, to the distribution of the next, images
            (C, h, w) within the bounds that :meth:`pixel` computes.
        estimate: a point estimate of the image given y alone, (..., C, f h, f w), not on the grid;
            no probability depends on it.

    Example:
        >>> y = torch.full((2, 3, 4, 4), 100 / 255)
        >>> def group(before):  # around what is left for it
        ...     channels = ConsistentGroups.parameter_channels(1, 3, len(before))
        ...     return ConsistentGroups.pixel(torch.zeros(2, channels, 4, 4), y, before)
        >>> x = ConsistentGroups(y, group).sample()
        >>> sums = (255 * torch.nn.functional.avg_pool2d(x, 2, divisor_override=1)).round().int()
        >>> x.shape, bool((sums + 2 >> 2 == 100).all())
        (torch.Size([2, 3, 8, 8]), True)
    """

    arg_constraints = {"y": image_grid}  # noqa: RUF012 (declared by the base class)
    asks_networks = True

    def __init__(
        self,
        y: Tensor,
        group: GroupGiven,
        estimate: Tensor | None = None,
        block: Block = PAIRS,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.y, self.group, self.estimate = at_least_float32(y), group, estimate
        self.block, self.first = block, group(())
        channels, height, width = self.first.event_shape
        event = torch.Size((channels, block.factor * height, block.factor * width))
        super().__init__(self.first.batch_shape, event, validate_args=validate_args)

    @staticmethod
    def parameter_channels(components: int, channels: int, before: int) -> int:
        """Channels that :meth:`pixel` takes after ``before`` groups."""
        one = DiscretizedLogisticMixture.parameter_channels(components, channels)
        return one + before * channels

    @staticmethod
    def pixel(
        parameters: Tensor,
        y: Tensor,
        before: Sequence[Tensor],
        estimates: Sequence[Tensor] = (),
        block: Block = PAIRS,
    ) -> TruncatedMixture:
        """The distribution of a group, with linear terms in the earlier pixels of the block.

        Locations are relative to what the earlier pixels leave.

        Args:
            parameters: a network's output (..., parameter_channels(K, C, n), h, w): those of
                :meth:`~srvae_pyro.distributions.DiscretizedLogisticMixture.from_channels`, then
                the earlier pixels' coefficients before tanh, (pixel, colour).
            y: the rounded averages (..., C, h, w), in float32 or better.
            before: the n groups before, of the same shape.
            estimates: of all groups, of the same shape, with y as their average; without, y.
        """
        channels, count = y.shape[-3], len(before)
        linear = count * channels
        parameters = at_least_float32(parameters).contiguous()
        of_mixture, weights = parameters.split([parameters.shape[-3] - linear, linear], -3)
        weights = weights.unflatten(-3, (count, channels)).tanh()
        known = block.next_pixel(
            [levels_of(pixel) for pixel in before],
            levels_of(y),
            weights,
            [LAST_LEVEL * estimate for estimate in estimates],
        )
        mixture = DiscretizedLogisticMixture.from_channels(
            of_mixture, channels, most_log_scale=MOST_LOG_SCALE
        )
        return TruncatedMixture(mixture, known)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        return ImagesAveragingTo(self.y, self.block)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> ConsistentGroups:
        new = self._get_checked_instance(ConsistentGroups, _instance)
        new.y, new.group, new.estimate = self.y, self.group, self.estimate
        new.block = self.block
        new.first = self.first.expand(torch.Size(batch_shape))
        super(ConsistentGroups, new).__init__(new.first.batch_shape, self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        # -inf if the value's y differs
        groups = self.block.groups(value)
        total = self.first.log_prob(groups[0])
        for index in range(1, len(groups)):
            total = total + self.group(groups[:index]).log_prob(groups[index])
        return total

    @property
    def uniform_noise(self) -> Tensor:
        """Of the shape (..., N, H, W), N as of a group: each pixel has its noise."""
        like = self.first.uniform_noise
        return like.new_empty(()).expand(*like.shape[:-2], *self.event_shape[-2:])

    @torch.no_grad()
    def icdf_sample(self, uniform: Tensor) -> Tensor:
        noise = self.block.groups(uniform)
        return self._in_order(lambda group, index: group.icdf_sample(noise[index]))

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Each group's mode given the modes of those before."""
        return self._in_order(lambda group, _: group.mode)

    @property
    @torch.no_grad()
    def location(self) -> Tensor:
        """Each group's location given the locations of those before."""
        return self._in_order(lambda group, _: group.location)

    @property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """Each group's expectation given the expectations, not on the grid, of those before.

        Exact if expectations are linear in earlier pixels. A block's sum stays within its bounds.
        """
        return self._in_order(lambda group, _: group.mean)

    def with_temperature(self, temperature: float) -> ConsistentGroups:
        new = ConsistentGroups(
            self.y,
            lambda before: self.group(before).with_temperature(temperature),
            self.estimate,
            self.block,
            validate_args=self._validate_args,
        )
        return new.expand(self.batch_shape)  # self may have been expanded

    def _in_order(self, choose: Callable[[ImageDistribution, int], Tensor]) -> Tensor:
        """The image whose groups ``choose`` picks by their distributions and indices."""
        groups = [choose(self.first, 0)]
        for index in range(1, self.block.pixels):
            groups.append(choose(self.group(groups), index))
        return self.block.from_groups(torch.broadcast_tensors(*groups))
