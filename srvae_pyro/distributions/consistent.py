"""The likelihood of 8-bit images whose 2x2 blocks have given rounded averages."""

from __future__ import annotations

import torch
from torch import Tensor

from srvae_pyro.distributions.block_parameters import BlockMixtureParameters
from srvae_pyro.distributions.blocks import PIXELS, from_blocks, to_blocks
from srvae_pyro.distributions.chain import location_of, next_pixel
from srvae_pyro.distributions.truncated import LAST_LEVEL, expectation, log_share, quantile
from srvae_pyro.pixels import to_levels, to_unit

__all__ = ["ConsistentMixture"]


class ConsistentMixture(BlockMixtureParameters):
    r"""A mixture of discretised logistics over the images x whose rounded block averages are y.

    For y = (a + b + c + d + 2) >> 2 the sum of a block's levels is one of four or fewer. Its
    pixels come one after the other, row by row, and each colour of the i-th (i = 0 to 3) is a
    discretised logistic, truncated to the levels :math:`L_{ic}` that still allow such a sum. The
    colours of a pixel share the component k,

    .. math::
        p(x_i|x_{<i}, y) = \sum_k \pi_{ik} \prod_c P_{ikc}(x_{ic}) / P_{ikc}(L_{ic}).

    All other x have probability 0. With :math:`v_{ic} = y_c - \sum_{j<i} (x_{jc} - y_c) / (4 - i)`,
    what is left for each of the remaining pixels, the locations are

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
        logits: unnormalised log-weights of the components, (..., 4, K, h, w).
        means: the locations' parts m, of [0, 1], (..., 4, K, C, h, w).
        log_scales: logarithms of the scales, of [0, 1], from -40 to 40, (..., 4, K, C, h, w).
        earlier: the coefficients b of earlier pixels, (..., 6, C, h, w), for the pairs (i, j) =
            (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2).
        coefficients: the coefficients a of earlier colours, for (c, c') = (1, 0), (2, 0), (2, 1),
            in [-1, 1], (..., 4, K, 3, h, w); None if C is 1.
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

    def _log_prob(self, value: Tensor) -> Tensor:
        """-inf for an image (..., C, 2h, 2w) whose y is another."""
        y = self._levels_of_y()
        x = to_blocks(to_levels(value).to(y.dtype))  # (..., 4, C, h, w)
        pixels = x.unbind(-4)
        y = y.expand(torch.broadcast_shapes(y.shape, pixels[0].shape))
        steps = [next_pixel(pixels[:i], y, self.earlier) for i in range(PIXELS)]
        low, high, left, expected = (torch.stack(part, -4) for part in zip(*steps, strict=True))
        possible = ((low <= x) & (x <= high)).flatten(-4).all(-1)
        # An impossible image is scored as if its pixels were in their intervals: no NaN gradients.
        low, high = torch.minimum(low, x), torch.maximum(high, x)

        bases = (expected.unsqueeze(-4) + LAST_LEVEL * self.means).unbind(-3)
        residuals = (x - left).unsqueeze(-4).unbind(-3)  # (..., 4, 1, h, w) each
        weights = () if self.coefficients is None else self.coefficients.unbind(-3)
        location = torch.stack(
            [location_of(base, weights, residuals[:c]) for c, base in enumerate(bases)], -3
        )
        precision = torch.exp(-self.log_scales) / LAST_LEVEL
        x, low, high = (part.unsqueeze(-4) for part in (x, low, high))
        share = log_share(x, low, high, location, precision)  # (..., 4, K, C, h, w)
        score = self.logits.log_softmax(-3) + share.sum(-3)
        log_mass = score.logsumexp(-3).sum((-3, -2, -1))
        return log_mass.masked_fill(~possible, -torch.inf)

    @property
    def noise_like(self) -> Tensor:
        """Of the shape (..., 1 + C, H, W): the first chooses a component, the others colours."""
        channels, height, width = self.event_shape
        return self.means.new_empty(()).expand(*self.batch_shape, 1 + channels, height, width)

    @torch.no_grad()
    def draw(self, uniform: Tensor) -> Tensor:
        """Pixel by pixel of the blocks: each a component, then colour by colour."""
        tail = torch.finfo(uniform.dtype).eps / 4
        noise = to_blocks(uniform)  # (..., 4, 1 + C, h, w)
        cumulative = self.logits.softmax(-3).cumsum(-3)[..., :-1, :, :]
        component = (noise[..., :1, :, :] >= cumulative).sum(-3)
        # Away from 0 and 1, whose quantiles are infinite, and evenly so.
        return self._image_of(component, noise[..., 1:, :, :].clamp(tail, 1 - 2 * tail))

    @property
    def mode(self) -> Tensor:
        """The likeliest component's location, pixel by pixel and colour by colour.

        Each is put on the grid, within the levels that are allowed, before the next.
        """
        return self._image_of(self.logits.argmax(-3), None)

    def _image_of(self, component: Tensor, noise: Tensor | None) -> Tensor:
        """The image of a component a pixel, (..., 4, h, w), and noise (..., 4, C, h, w) if any."""
        y = self._levels_of_y()
        index = component[..., None, None, :, :]

        def choose(parameter: Tensor) -> Tensor:
            """(..., 4, K, C, h, w) to (..., 4, C, h, w)."""
            shape = torch.broadcast_shapes(index.shape[:-5], parameter.shape[:-5])
            at = index.expand(*shape, PIXELS, 1, *parameter.shape[-3:])
            return parameter.expand(shape + parameter.shape[-5:]).gather(-4, at).squeeze(-4)

        means = choose(self.means) * LAST_LEVEL
        precision = torch.exp(-choose(self.log_scales)) / LAST_LEVEL
        weights = () if self.coefficients is None else choose(self.coefficients).unbind(-3)
        pixels: list[Tensor] = []
        for i in range(PIXELS):
            known = next_pixel(pixels, y, self.earlier)
            low, high, left, expected = (part.unbind(-3) for part in known)
            levels: list[Tensor] = []
            for c in range(len(low)):
                residuals = [level - v for level, v in zip(levels, left, strict=False)]
                base = expected[c] + means[..., i, c, :, :]
                value = location_of(base, [w[..., i, :, :] for w in weights], residuals)
                if noise is not None:
                    uniform = noise[..., i, c, :, :]
                    value = quantile(uniform, low[c], high[c], value, precision[..., i, c, :, :])
                levels.append(torch.minimum(torch.maximum(value.round(), low[c]), high[c]))
            pixels.append(torch.stack(levels, -3))
        return to_unit(from_blocks(torch.stack(pixels, -4)), y.dtype)

    @property
    def mean(self) -> Tensor:
        """The expectation, pixel by pixel, each given those of the pixels before it.

        Within a component each colour's location is at the earlier colours' expectations, the
        components' are averaged, and the intervals follow from the averages as they are. So the sum
        of a block lies between the least and the largest that are allowed.
        """
        y = self._levels_of_y().double()
        shares = self.logits.double().softmax(-3)
        means = self.means.double() * LAST_LEVEL
        precision = torch.exp(-self.log_scales.double()) / LAST_LEVEL
        weights = () if self.coefficients is None else self.coefficients.double().unbind(-3)
        pixels: list[Tensor] = []
        for i in range(PIXELS):
            known = next_pixel(pixels, y, self.earlier.double())
            low, high, left, expected = (part.unsqueeze(-4).unbind(-3) for part in known)
            levels: list[Tensor] = []  # of all components, (..., K, h, w)
            for c in range(len(low)):
                residuals = [level - v for level, v in zip(levels, left, strict=False)]
                base = expected[c] + means[..., i, :, c, :, :]
                where = location_of(base, [w[..., i, :, :, :] for w in weights], residuals)
                levels.append(expectation(low[c], high[c], where, precision[..., i, :, c, :, :]))
            share = shares[..., i, :, :, :]
            pixels.append(torch.stack([(share * level).sum(-3) for level in levels], -3))
        return (from_blocks(torch.stack(pixels, -4)) / LAST_LEVEL).to(self.means.dtype)

    def _levels_of_y(self) -> Tensor:
        return to_levels(self.y).to(self.means.dtype)
