"""A mixture of discretised logistics within an interval of levels for each value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from srvae_pyro.distributions.block_averages import PixelContext
from srvae_pyro.distributions.image_distribution import ImageDistribution
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.distributions.truncated import (
    expectation,
    likeliest,
    log_mass,
    log_masses,
    nearest,
    quantile,
)
from srvae_pyro.pixels import LAST_LEVEL, to_levels, to_unit

LOG_LAST_LEVEL = math.log(LAST_LEVEL)
STRIPS = 8  # of an image, one at a time in float64 to save memory


class TruncatedMixture(ImageDistribution):
    r"""A mixture of discretised logistics over images, truncated colour by colour.

    With :math:`P_{kc}` component k's distribution of a pixel's colour c, given those before, and
    :math:`L_c` the levels allowed,

    .. math::
        p(x) = \prod_c \frac{\sum_k w_{kc} P_{kc}(x_c)}{\sum_k w_{kc} P_{kc}(L_c)},
        \quad w_{k1} = \pi_k, \quad w_{k,c+1} = w_{kc} P_{kc}(x_c).

    The locations are relative to what is known,

    .. math::
        \mu_{kc} = e_c + m_{kc} + \sum_{c'<c} a_{kcc'} (x_{c'} - v_{c'}).

    Images on the grid k / 255 of [0, 1] have probability 0 outside the intervals. Computed in
    levels, in float32 or better.

    Args:
        mixture: the weights, parts m of the locations, scales and coefficients a.
        known: low and high, the ends of the intervals; left and expected, v and e; all in levels,
            (..., C, H, W), broadcast with the mixture.

    Example:
        >>> mixture = DiscretizedLogisticMixture.from_channels(torch.randn(2, 50, 4, 4))
        >>> low, high = torch.full((3, 4, 4), 100.0), torch.full((3, 4, 4), 103.0)
        >>> pixels = TruncatedMixture(mixture, PixelContext(low, high, low, low))
        >>> x = pixels.sample()
        >>> x.shape, bool(((255 * x).round() >= 100).all()), pixels.log_prob(x).shape
        (torch.Size([2, 3, 4, 4]), True, torch.Size([2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        mixture: DiscretizedLogisticMixture,
        known: PixelContext,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.mixture, self.known = mixture, known
        shapes = (part.shape[:-3] for part in known)
        batch = torch.Size(broadcast_shape(mixture.batch_shape, *shapes))
        super().__init__(batch, mixture.event_shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> TruncatedMixture:
        mixture = self.mixture.expand(torch.Size(batch_shape))
        return TruncatedMixture(mixture, self.known, validate_args=self._validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        low, high, left, expected = self.known
        x = to_levels(value).to(value.dtype)
        possible = ((low <= x) & (x <= high)).flatten(-3).all(-1)
        # Impossible images are scored within widened intervals: no NaN gradients.
        low, high = torch.minimum(low, x), torch.maximum(high, x)
        bases = (expected.unsqueeze(-4) + LAST_LEVEL * self.mixture.means).unbind(-3)
        residuals = (x - left).unsqueeze(-4).unbind(-3)  # (..., 1, H, W) each
        locations = [self._location(base, residuals[:c]) for c, base in enumerate(bases)]
        location = torch.stack(torch.broadcast_tensors(*locations), -3)
        precision = torch.exp(-LOG_LAST_LEVEL - self.mixture.log_scales)
        x, low, high = (part.unsqueeze(-4) for part in (x, low, high))
        shares, intervals = log_masses(x, low, high, location, precision)  # (..., K, C, H, W)
        weights, log_mass = self.mixture.logits, value.new_zeros(())
        # Components' shares of intervals, weighted by their shares of the mixture: no difference
        # of large logarithms.
        for share, interval in zip(shares.unbind(-3), intervals.unbind(-3), strict=True):
            weights = (weights + interval).log_softmax(-3) + share
            log_mass = log_mass + weights.logsumexp(-3)
        return log_mass.sum((-2, -1)).masked_fill(~possible, -torch.inf)

    @property
    def uniform_noise(self) -> Tensor:
        """Of the shape (..., 2C, H, W): C choose a component for each colour, C the colours."""
        channels, height, width = self.event_shape
        like = self.mixture.means.new_empty(())
        return like.expand(*self.batch_shape, 2 * channels, height, width)

    @torch.no_grad()
    def icdf_sample(self, uniform: Tensor) -> Tensor:
        """Colour by colour, of a component drawn by its share of the interval."""
        # Away from 0 and 1, whose quantiles are infinite, and evenly so.
        tail = torch.finfo(uniform.dtype).eps / 4
        choices, noise = uniform.chunk(2, -3)
        colours = iter(noise.clamp(tail, 1 - 2 * tail).split(1, -3))
        return self._in_order(
            lambda low, high, *where: quantile(next(colours), low, high, *where),
            choices.split(1, -3),
        )

    @property
    @torch.no_grad()
    def location(self) -> Tensor:
        """Colour by colour the location of the component with most mass in the interval."""
        return self._in_order(lambda low, high, location, precision: location)

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Colour by colour the likeliest level of the component with most mass in the interval."""
        return self._in_order(likeliest)

    def _in_order(
        self, value_of: Callable[..., Tensor], choices: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Colour by colour, each rounded within its interval before the next.

        ``value_of`` gives a value (..., 1, H, W) by the interval's ends, the component's location
        and precision; ``choices``, noise of that shape, draw components instead of the largest.
        """
        lows, highs, lefts, expected = (part.unsqueeze(-4).unbind(-3) for part in self.known)
        means = (LAST_LEVEL * self.mixture.means).unbind(-3)
        precisions = torch.exp(-LOG_LAST_LEVEL - self.mixture.log_scales).unbind(-3)
        levels: list[Tensor] = []
        residuals: list[Tensor] = []
        weights = self.mixture.logits
        for c, (low, high, precision) in enumerate(zip(lows, highs, precisions, strict=True)):
            location = self._location(expected[c] + means[c], residuals)  # (..., K, H, W)
            masses = weights + log_mass(low, high, location, precision)
            if choices is None:
                largest = masses.amax(-3, keepdim=True)
                component = _first(masses == largest)
                lost = largest.isnan()
            else:
                shares = masses.softmax(-3)
                cumulative = shares.cumsum(-3)[..., :-1, :, :]
                component = (choices[c] >= cumulative).sum(-3, keepdim=True)
                lost = shares[..., :1, :, :].isnan()
            of_component = (
                torch.take_along_dim(*_alike(part, component), -3) for part in (location, precision)
            )
            level = nearest(low, high, value_of(low, high, *of_component))
            level = level.masked_fill(lost, torch.nan)  # a NaN component makes all shares NaN
            levels.append(level.squeeze(-3))
            if c < len(lows) - 1:
                residuals.append(level - lefts[c])
                weights = (weights + log_mass(level, level, location, precision)).log_softmax(-3)
        return to_unit(torch.stack(levels, -3), self.mixture.means.dtype)

    @property
    def mean(self) -> Tensor:
        """The expectation, exact for the first colour.

        Locations are at the earlier colours' expectations within a component, and components are
        averaged by their mass in the intervals so far.
        """
        height = self.event_shape[-2]
        rows = -(-height // STRIPS)
        strips = [self._rows(slice(top, top + rows)) for top in range(0, height, rows)]
        return torch.cat([strip._expected() for strip in strips], -2)

    def _rows(self, rows: slice) -> TruncatedMixture:
        """The same of some rows of the image."""
        mixture = self.mixture
        parameters = mixture.logits, mixture.means, mixture.log_scales, mixture.coefficients
        height, width = self.event_shape[-2:]
        known = (part.expand(*part.shape[:-2], height, width) for part in self.known)
        return TruncatedMixture(
            DiscretizedLogisticMixture(
                *(None if part is None else part[..., rows, :] for part in parameters),  # type: ignore[arg-type]
                validate_args=False,
            ),
            PixelContext(*(part[..., rows, :] for part in known)),
            validate_args=False,
        )

    def _expected(self) -> Tensor:
        known = (part.unsqueeze(-4).unbind(-3) for part in self.known)
        parts = (*known, self.mixture.means.unbind(-3), self.mixture.log_scales.unbind(-3))
        colours: list[Tensor] = []
        residuals: list[Tensor] = []
        weights = self.mixture.logits.double()
        for colour in zip(*parts, strict=True):
            low, high, left, expected, mean, log_scale = (part.double() for part in colour)
            precision = torch.exp(-LOG_LAST_LEVEL - log_scale)
            location = self._location(expected + LAST_LEVEL * mean, residuals)
            weights = (weights + log_mass(low, high, location, precision)).log_softmax(-3)
            level = expectation(low, high, location, precision)  # (..., K, H, W)
            colours.append((weights.exp() * level).sum(-3))
            residuals.append(level - left)
        return (torch.stack(colours, -3) / LAST_LEVEL).to(self.mixture.means.dtype)

    def with_temperature(self, temperature: float) -> TruncatedMixture:
        return TruncatedMixture(
            self.mixture.with_temperature(temperature),
            self.known,
            validate_args=self._validate_args,
        )

    def _location(self, base: Tensor, residuals: Sequence[Tensor]) -> Tensor:
        """The location of the colour after those of ``residuals``."""
        if residuals and self.mixture.coefficients is not None:
            weights = self.mixture.coefficients.to(base.dtype).unbind(-3)
            for weight, residual in zip(weights[len(residuals) - 1 :], residuals, strict=False):
                base = torch.addcmul(base, weight, residual)
        return base


def _first(chosen: Tensor) -> Tensor:
    """The first chosen component's index (..., 1, H, W): argmax over K is slow on CPUs."""
    count = chosen.shape[-3]
    ranks = torch.arange(count, 0, -1, device=chosen.device).view(-1, 1, 1)
    return count - torch.where(chosen, ranks, 1).amax(-3, keepdim=True)  # of none the last


def _alike(parameter: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter (..., K, H, W) and components (..., 1, H, W) with one leading shape."""
    batch = broadcast_shape(parameter.shape[:-3], component.shape[:-3])
    return (
        parameter.expand(batch + parameter.shape[-3:]),
        component.expand(batch + component.shape[-3:]),
    )
