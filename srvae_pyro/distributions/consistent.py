"""The likelihood of 8-bit images whose 2x2 blocks have given rounded averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.blocks import PIXELS, from_blocks, to_blocks
from srvae_pyro.distributions.chain import EARLIER, Next, levels_of, next_pixel, pairs
from srvae_pyro.distributions.constraints import image_grid, images_averaging_to
from srvae_pyro.distributions.images import ImageDistribution
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.precision import at_least_float32
from srvae_pyro.distributions.truncated_mixture import TruncatedMixture, truncatable
from srvae_pyro.pixels import to_levels

__all__ = ["ConsistentMixture"]


class ConsistentMixture(ImageDistribution):
    r"""A mixture of discretised logistics over the images x whose rounded block averages are y.

    For y = (a + b + c + d + 2) >> 2 the sum of a block's levels is one of four or fewer. Its
    pixels come one after the other, row by row, and the i-th (i = 0 to 3) is a
    :class:`~srvae_pyro.distributions.TruncatedMixture`, each of whose colours is within the levels
    that still allow such a sum. All other x have probability 0. With
    :math:`v_{ic} = y_c - \sum_{j<i} (x_{jc} - y_c) / (4 - i)`, what is left for each of the
    remaining pixels, the locations are

    .. math::
        \mu_{ikc} = v_{ic} + m_{ikc} + \sum_{j<i} b_{ijc} (x_{jc} - y_c)
                    + \sum_{c'<c} a_{ikcc'} (x_{ic'} - v_{ic'}).

    Images are floats on the grid k / 255 of [0, 1]. Everything is computed in levels and in float32
    or better.

    References:
        Salimans et al., PixelCNN++, 2017, arXiv:1701.05517, for the mixture; Cao et al., Lossless
        Image Compression through Super-Resolution, 2020, arXiv:2004.02872, whose rounded averages
        leave a pixel of a block nearly given by the others.

    Args:
        y: the rounded averages, images (..., C, h, w) on the grid, where C is 1 or 3.
        pixels: weights, m, scales and a of a block's pixels, a mixture over images (C, h, w) of
            batch shape (..., 4).
        earlier: the coefficients b of earlier pixels, (..., 6, C, h, w), for the pairs (i, j) =
            (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2).
        validate_args: whether to check arguments and scored values.

    Example:
        >>> y = torch.full((2, 3, 4, 4), 100 / 255)
        >>> channels = ConsistentMixture.parameter_channels(components=5)
        >>> likelihood = ConsistentMixture.from_channels(torch.randn(2, channels, 4, 4), y)
        >>> likelihood.batch_shape, likelihood.event_shape
        (torch.Size([2]), torch.Size([3, 8, 8]))
        >>> x = likelihood.sample()
        >>> sums = to_blocks((255 * x).round().int()).sum(-4)
        >>> bool((sums + 2 >> 2 == 100).all()), likelihood.log_prob(x).shape
        (True, torch.Size([2]))
    """

    arg_constraints = {  # noqa: RUF012 (declared by the base class, and never changed)
        "y": image_grid,
        "earlier": constraints.independent(constraints.real, 4),
    }

    def __init__(
        self,
        y: Tensor,
        pixels: DiscretizedLogisticMixture,
        earlier: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        channels, *size = pixels.event_shape
        if pixels.batch_shape[-1:] != (PIXELS,):
            raise ValueError(
                f"expected a mixture of batch shape (..., {PIXELS}), for the pixels of a block, "
                f"got {tuple(pixels.batch_shape)}"
            )
        given = {"y": (y, (channels, *size)), "earlier": (earlier, (EARLIER, channels, *size))}
        for name, (parameter, shape) in given.items():
            if parameter.shape[-len(shape) :] != shape:
                raise ValueError(
                    f"{name} has shape {tuple(parameter.shape)}, which does not end in {shape} as "
                    f"a mixture over images {tuple(pixels.event_shape)} requires"
                )
        batch = broadcast_shape(y.shape[:-3], pixels.batch_shape[:-1], earlier.shape[:-4])
        self.y = at_least_float32(y).expand(*batch, *y.shape[-3:])
        self.pixels = pixels.expand((*batch, PIXELS))
        self.earlier = at_least_float32(earlier).expand(*batch, *earlier.shape[-4:])
        event = torch.Size((channels, 2 * size[0], 2 * size[1]))
        super().__init__(batch, event, validate_args=validate_args)

    @staticmethod
    def parameter_channels(components: int, channels: int = 3) -> int:
        """Number of channels that :meth:`from_channels` takes: 418 for 10 components, 3 colours."""
        one = DiscretizedLogisticMixture.parameter_channels(components, channels)
        return PIXELS * one + EARLIER * channels

    @classmethod
    def from_channels(
        cls, parameters: Tensor, y: Tensor, *, validate_args: bool | None = None
    ) -> ConsistentMixture:
        """Read the parameters from the channels of a network's output.

        The order of the channels is: for each pixel as
        :meth:`~srvae_pyro.distributions.DiscretizedLogisticMixture.from_channels` takes them;
        coefficients of earlier pixels before tanh, (pair, colour). Log-scales are clamped
        to [-7, 7].

        Args:
            parameters: the network's output, (..., parameter_channels(K, C), h, w).
            y: the rounded averages (..., C, h, w), in float32 or better.
            validate_args: whether to check arguments and scored values.
        """
        channels, total = y.shape[-3], parameters.shape[-3]
        one = cls.parameter_channels(1, channels) - EARLIER * channels
        components, rest = divmod(total - EARLIER * channels, one)
        if components < 1 or rest:
            raise ValueError(
                f"{total} parameter channels are not {EARLIER * channels} and a multiple of {one}, "
                f"which each component of a mixture over {channels} colour channel(s) takes"
            )
        parameters = at_least_float32(parameters).contiguous()
        of_pixels, earlier = parameters.split([components * one, EARLIER * channels], -3)
        pixels = truncatable(of_pixels.unflatten(-3, (PIXELS, -1)), channels)
        earlier = earlier.unflatten(-3, (EARLIER, channels)).tanh()
        return cls(y, pixels, earlier, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """The images on the grid whose rounded block averages are y."""
        return images_averaging_to(self.y)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> ConsistentMixture:
        """The same distribution with a larger batch shape, as views of the same parameters."""
        new = self._get_checked_instance(ConsistentMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        new.y = self.y.expand(batch_shape + self.y.shape[-3:])
        new.pixels = self.pixels.expand((*batch_shape, PIXELS))
        new.earlier = self.earlier.expand(batch_shape + self.earlier.shape[-4:])
        super(ConsistentMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        """-inf for an image (..., C, 2h, 2w) whose y is another."""
        blocks = to_blocks(value)  # (..., 4, C, h, w)
        levels = to_levels(blocks).to(value.dtype).unbind(-4)
        y = self._levels_of_y()
        y = y.expand(broadcast_shape(y.shape, levels[0].shape))
        steps = [self._next(levels[:i], y) for i in range(PIXELS)]
        known = Next(*(torch.stack(part, -4) for part in zip(*steps, strict=True)))
        return TruncatedMixture(self.pixels, known, validate_args=False).log_prob(blocks).sum(-1)

    @property
    def noise_like(self) -> Tensor:
        """Of the shape (..., 2C, H, W): C choose a component for each colour, C the colours."""
        channels, height, width = self.event_shape
        like = self.pixels.means.new_empty(())
        return like.expand(*self.batch_shape, 2 * channels, height, width)

    @torch.no_grad()
    def draw(self, uniform: Tensor) -> Tensor:
        """Pixel by pixel of the blocks, and colour by colour."""
        noise = to_blocks(uniform).unbind(-4)  # (..., 2C, h, w) each
        return self._in_order(lambda pixel, i: pixel.draw(noise[i]))

    @property
    def mode(self) -> Tensor:
        """Each pixel's mode given the modes of the pixels before it."""
        return self._in_order(lambda pixel, _: pixel.mode)

    @property
    def location(self) -> Tensor:
        """Each pixel's location given the locations of the pixels before it."""
        return self._in_order(lambda pixel, _: pixel.location)

    @property
    def mean(self) -> Tensor:
        """The expectation, pixel by pixel, each given those of the pixels before it.

        The intervals follow from the expectations as they are. So the sum of a block lies between
        the least and the largest that are allowed.
        """
        return self._in_order(lambda pixel, _: pixel.mean)

    def with_temperature(self, temperature: float) -> ConsistentMixture:
        """The mixture with logits divided and scales multiplied by a positive temperature."""
        return ConsistentMixture(
            self.y,
            self.pixels.with_temperature(temperature),
            self.earlier,
            validate_args=self._validate_args,
        )

    def _in_order(self, choose: Callable[[TruncatedMixture, int], Tensor]) -> Tensor:
        """The image of which ``choose`` makes each pixel (..., C, h, w), given those before."""
        y = self._levels_of_y()
        images: list[Tensor] = []
        for i in range(PIXELS):
            known = self._next([levels_of(image) for image in images], y)
            pixel = TruncatedMixture(self._mixture_of(i), known, validate_args=False)
            images.append(choose(pixel, i))
        return from_blocks(torch.stack(images, -4))

    def _mixture_of(self, pixel: int) -> DiscretizedLogisticMixture:
        """The part of a pixel, 0 to 3, of batch shape (...)."""
        all_four = self.pixels
        coefficients = all_four.coefficients
        return DiscretizedLogisticMixture(
            all_four.logits.select(-4, pixel),
            all_four.means.select(-5, pixel),
            all_four.log_scales.select(-5, pixel),
            None if coefficients is None else coefficients.select(-5, pixel),
            validate_args=False,
        )

    def _next(self, pixels: Sequence[Tensor], y: Tensor) -> Next:
        return next_pixel(pixels, y, self.earlier[..., pairs(len(pixels)), :, :, :])

    def _levels_of_y(self) -> Tensor:
        return to_levels(self.y).to(self.pixels.means.dtype)
