"""Images from coarse to fine, each the rounded block averages of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from srvae_pyro.distributions.block_averages import PAIRS, Block
from srvae_pyro.distributions.image_distribution import ImageDistribution
from srvae_pyro.pixels import to_levels, to_unit

Finer = Callable[[Tensor], ImageDistribution]


class Pyramid(ImageDistribution):
    r"""An image from coarse to fine, where a coarser image averages the finer one.

    .. math::
        p(y) = p(y^0) \prod_{l=1}^{L} p(y^l \mid y^{l-1}), \quad y^{l-1} = d(y^l),

    with d the rounded averages of blocks: a multi-scale autoregressive model. ``log_prob`` computes
    the coarser images from the value itself; ``icdf_sample`` draws one level after the other.

    References:
        Reed et al., Parallel Multiscale Autoregressive Density Estimation, 2017, arXiv:1703.03664;
        Cao et al., Lossless Image Compression through Super-Resolution, 2020, arXiv:2004.02872,
        for averages.

    Args:
        coarsest: the distribution of :math:`y^0`, images (C, h, w).
        finer: for each level, coarse to fine, from the coarser image (..., C, h, w) to the finer
            one's distribution, such as :class:`~srvae_pyro.distributions.ConsistentGroups`, whose
            noise has at most as many channels as that of ``coarsest``, or 2C.

    Example:
        >>> from srvae_pyro.distributions import ConsistentGroups, DiscretizedLogisticMixture
        >>> def twice(y):  # around what is left of the average
        ...     def group(before):
        ...         channels = ConsistentGroups.parameter_channels(1, 1, len(before))
        ...         return ConsistentGroups.pixel(torch.zeros(channels, *y.shape[-2:]), y, before)
        ...     return ConsistentGroups(y, group)
        >>> coarsest = DiscretizedLogisticMixture.from_channels(torch.randn(5, 3, 2, 2), 1)
        >>> pyramid = Pyramid(coarsest, [twice, twice])
        >>> y = pyramid.sample()
        >>> y.shape, pyramid.log_prob(y).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    asks_networks = True

    def __init__(
        self,
        coarsest: ImageDistribution,
        finer: Sequence[Finer],
        block: Block = PAIRS,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.coarsest = coarsest
        self.finer, self.block = tuple(finer), block
        channels, height, width = coarsest.event_shape
        larger = block.factor ** len(self.finer)
        event = torch.Size((channels, larger * height, larger * width))
        super().__init__(coarsest.batch_shape, event, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None) -> Pyramid:
        coarsest = self.coarsest.expand(torch.Size(batch_shape))
        return Pyramid(coarsest, self.finer, self.block, validate_args=self._validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        images = [value]
        for _ in self.finer:
            images.append(_average(images[-1], self.block))
        images.reverse()
        total = self.coarsest.log_prob(images[0])
        for finer, coarse, fine in zip(self.finer, images, images[1:], strict=False):
            total = total + finer(coarse).log_prob(fine)
        return total

    @property
    def uniform_noise(self) -> Tensor:
        """(..., N, H, W): half of N for the finest image, the rest for coarser ones."""
        like = self.coarsest.uniform_noise
        numbers = max(like.shape[-3], 2 * self.event_shape[0])
        numbers = 2 * numbers if self.finer else like.shape[-3]
        return like.new_empty(()).expand(*like.shape[:-3], numbers, *self.event_shape[-2:])

    @torch.no_grad()
    def icdf_sample(self, uniform: Tensor) -> Tensor:

        def drawn(image: ImageDistribution, level: int) -> Tensor:
            noise = _noise_of(uniform, len(self.finer) - level, self.block.factor)
            return image.icdf_sample(noise[..., : image.uniform_noise.shape[-3], :, :])

        return self._in_order(drawn) if self.finer else self.coarsest.icdf_sample(uniform)

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Each image's mode given the mode of the coarser one."""
        return self._in_order(lambda image, _: image.mode)

    @property
    @torch.no_grad()
    def location(self) -> Tensor:
        """Each image's location given the location of the coarser one."""
        return self._in_order(lambda image, _: image.location)

    @property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """Each image's expectation given the coarser one's, not on the grid."""
        return self._in_order(lambda image, _: image.mean)

    def with_temperature(self, temperature: float) -> Pyramid:

        def tempered(finer: Finer) -> Finer:
            return lambda coarse: finer(coarse).with_temperature(temperature)

        return Pyramid(
            self.coarsest.with_temperature(temperature),
            [tempered(finer) for finer in self.finer],
            self.block,
            validate_args=self._validate_args,
        )

    def _in_order(self, choose: Callable[[ImageDistribution, int], Tensor]) -> Tensor:
        """The finest image; ``choose`` picks each by its distribution and level, from 0."""
        image = choose(self.coarsest, 0)
        for level, finer in enumerate(self.finer, start=1):
            image = choose(finer(image), level)
        return image


def _average(image: Tensor, block: Block) -> Tensor:
    """The rounded average (..., C, h, w), computed once for repeated images."""
    once = image
    for dim in range(image.dim() - 3):
        if image.stride(dim) == 0:
            once = once.narrow(dim, 0, 1)
    average = to_unit(block.average(to_levels(once)), image.dtype)
    return average.expand(*image.shape[:-3], *average.shape[-3:])


def _noise_of(uniform: Tensor, level: int, factor: int) -> Tensor:
    """The noise of the image ``level`` below the finest, of (..., N, H, W) in all.

    The first half of the channels is the finest image's; of the second, each coarser image has
    every f^n-th pixel, so that a tile of the noise is a tile of each image's noise.
    """
    finest, coarser = uniform.chunk(2, -3)
    if level == 0:
        return finest
    stride, first = factor**level, factor ** (level - 1)
    return coarser[..., first::stride, first::stride]
