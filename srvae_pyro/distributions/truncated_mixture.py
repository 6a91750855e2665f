"""Discretised logistics, and mixtures of them, truncated to an interval of levels for each value.

The interval is from a level ``low`` to a level ``high``; a bin reaches half a level to either side
of its level, and the bins of 0 and of 255 take the whole tail beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from srvae_pyro.distributions.block_averages import Next
from srvae_pyro.distributions.image_distribution import ImageDistribution, at_least_float32
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture
from srvae_pyro.pixels import to_levels, to_unit

__all__ = [
    "LAST_LEVEL",
    "TruncatedMixture",
    "expectation",
    "likeliest",
    "log_mass",
    "log_masses",
    "nearest",
    "quantile",
    "truncatable",
]

LAST_LEVEL = 255
# Stands for the infinite reach of the end bins, in levels: divided by any scale of 255 e^-40 to
# 255 e^40 levels its sigmoid is exactly 1 in float32, and it is finite.
UNBOUNDED = 1e22
FARTHEST = 1e21  # levels: a location beyond is taken to be there, within that reach
NO_TAIL = 80  # scales from the location to where a logistic's tail adds nothing, in float64 too
NODES = 16  # of the quadrature
# Of what the closed form of the expectation has its digits in float64.
LEAST_MASS = 1e-6
LEAST_PRECISION = 1e-12


def log_masses(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The logarithms of a bin's share of its interval's mass, and of that mass.

    All arguments broadcast. With the bin's edges a < b and the interval's A <= a, B >= b, in scales
    from the location, a mass is :math:`\sigma(b)\,\sigma(-a)\,(1 - e^{a - b})`. Far from the
    location the logarithms of both masses are large and nearly equal, so for the share their linear
    parts are cancelled before they are computed.

    Args:
        level: the bin's level, a whole number from ``low`` to ``high``.
        low: the interval's first level.
        high: its last.
        location: of the logistic, in levels.
        precision: one over its scale in levels.
    """
    if torch._C._are_functorch_transforms_active():
        return _log_masses(level, low, high, location, precision)
    masses: tuple[Tensor, Tensor] = _LogMasses.apply(level, low, high, location, precision)
    return masses


def _log_masses(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`log_masses` for derivatives of any order and the transforms of ``torch.func``.

    Of smooth functions alone: one of pieces, as :class:`_Side` has it, would have no second
    derivative where they meet, with the location on a bin's edge.
    """
    level, low, high = level.detach(), low.detach(), high.detach()
    upper, lower, bin_width, width = _edges(level, low, high, location, precision)
    in_bin, within = torch.expm1(-bin_width), torch.expm1(-width)
    share = torch.log(in_bin / within) + _log_ratio(*upper) + _log_ratio(*lower)
    return share, torch.log(-within) + F.logsigmoid(upper[1]) + F.logsigmoid(lower[1])


def _log_ratio(inner: Tensor, outer: Tensor, back: Tensor) -> Tensor:
    """log sigmoid(inner) - log sigmoid(outer); arguments as of :class:`_Side`."""
    # log sigmoid(t) = t + log sigmoid(-t), which is used where both are far below 0.
    below = outer < 0
    sign = 1 - 2 * below.to(outer.dtype)
    linear = torch.where(below, back, torch.zeros_like(back))
    return linear + F.logsigmoid(sign * inner) - F.logsigmoid(sign * outer)


def _edges(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """The upper and lower edges, as of :class:`_Side`, and widths of a bin and its interval.

    In scales.
    """
    top, bottom = level >= LAST_LEVEL, level <= 0
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half = level.new_full((), 0.5)
    far = level.new_full((), UNBOUNDED)
    location = _in_reach(location)
    upper = (
        (level + torch.where(top, far, half) - location) * precision,
        (high + torch.where(high_open, far, half) - location) * precision,
        torch.where(high_open, -far, level - high) * precision,
    )
    lower = (
        (location - level + torch.where(bottom, far, half)) * precision,
        (location - low + torch.where(low_open, far, half)) * precision,
        torch.where(low_open, -far, low - level) * precision,
    )
    bin_width = torch.where(top | bottom, far, 2 * half) * precision
    width = torch.where(high_open | low_open, far, high - low + 1) * precision
    return upper, lower, bin_width, width


class _LogMasses(torch.autograd.Function):
    """:func:`log_masses` with its gradients in closed form, which cost less than autograd's."""

    @staticmethod
    def forward(
        ctx: Any, level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
    ) -> tuple[Tensor, Tensor]:
        above, below, bin_width, width = _edges(level, low, high, location, precision)
        upper, lower = _Side(*above), _Side(*below)
        del above, below
        in_bin, within = torch.expm1(-bin_width), torch.expm1(-width)
        # The logarithm of a quotient, not a difference of two, which grow with the scale.
        outer = upper.outer_factor * lower.outer_factor
        share = torch.log(in_bin * outer / (upper.inner_factor * lower.inner_factor * within))
        share = share.add_(upper.linear).add_(lower.linear)
        interval = torch.log(-within / outer).add_(upper.end).add_(lower.end)
        if any(ctx.needs_input_grad):
            share_slope, interval_slope = (
                low - high for low, high in zip(lower.slopes(), upper.slopes(), strict=True)
            )
            # By the logarithm of the precision; w / (e^w - 1) = -w (1 + expm1(-w)) / expm1(-w).
            of_width = width * (1 + within) / within
            (a, c), (b, d) = upper.by_precision(), lower.by_precision()
            ctx.save_for_backward(
                *(level, low, high, location, precision),
                share_slope * precision,
                interval_slope * precision,
                (a + b - bin_width * (1 + in_bin) / in_bin + of_width) / precision,
                (c + d - of_width) / precision,
            )
        return share, interval

    @staticmethod
    def backward(ctx: Any, share: Tensor, interval: Tensor) -> tuple[Tensor | None, ...]:
        level, low, high, location, precision, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            masses = _log_masses(level, low, high, location, precision)
            wanted = ctx.needs_input_grad[3:]
            inputs = [*compress((location, precision), wanted)]
            found = iter(torch.autograd.grad(masses, inputs, (share, interval), create_graph=True))
            return None, None, None, *(next(found) if want else None for want in wanted)
        of_location, of_location_too, of_precision, of_precision_too = slopes
        by_location = (share * of_location).addcmul_(interval, of_location_too)
        by_precision = (share * of_precision).addcmul_(interval, of_precision_too)
        return (
            *(None, None, None),
            by_location.sum_to_size(location.shape),
            by_precision.sum_to_size(precision.shape),
        )


class _Side:
    r"""One side's factors of both masses: their logarithms and gradients.

    By :math:`\log\sigma(t) = \min(t, 0) - \log(1 + e^{-|t|})`.

    Args:
        inner: the bin's edge, in scales from the location, outwards.
        outer: the interval's.
        back: inner less outer, without a difference of large numbers.

    Attributes:
        linear, inner_factor: log sigmoid(inner) - log sigmoid(outer) is the first, less the
            logarithm of the second, plus that of ``outer_factor``.
        end, outer_factor: log sigmoid(outer) is the first, less the logarithm of the second.
    """

    def __init__(self, inner: Tensor, outer: Tensor, back: Tensor) -> None:
        self.inner, self.outer = inner, outer
        self.near, self.far = (edge.abs().clamp_max_(NO_TAIL) for edge in (inner, outer))
        self.tail_in, self.tail_out = (edge.neg().exp_() for edge in (self.near, self.far))
        self.inner_factor, self.outer_factor = 1 + self.tail_in, 1 + self.tail_out
        self.linear, self.end = torch.maximum(inner.clamp_max(0), back), outer.clamp_max(0)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of both by the edges, moved together: log sigmoid(t) has sigmoid(-t)."""
        outer = torch.sigmoid(-self.outer)
        return torch.sigmoid(-self.inner) - outer, outer

    def by_precision(self) -> tuple[Tensor, Tensor]:
        """By the logarithm of the precision: log sigmoid(t) has t sigmoid(-t)."""
        inner = self.near * (self.tail_in / self.inner_factor)
        outer = self.far * (self.tail_out / self.outer_factor)
        return self.linear + inner - outer, self.end + outer


def log_mass(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    """The logarithm of an interval's mass; arguments as of :func:`log_masses`."""
    location = _in_reach(location)
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half = low.new_full((), 0.5)
    far = low.new_full((), UNBOUNDED)
    below_high = (high + torch.where(high_open, far, half) - location) * precision
    above_low = (location - low + torch.where(low_open, far, half)) * precision
    width = torch.where(high_open | low_open, far, high - low + 1) * precision
    # Of log sigmoid(t) = min(t, 0) - log(1 + e^-|t|) both logarithms as one, with the width's.
    upper, lower = (1 + _tail(edge) for edge in (below_high, above_low))
    within = torch.log(-torch.expm1(-width) / (upper * lower))
    return below_high.clamp_max(0) + above_low.clamp_max(0) + within


def _in_reach(location: Tensor) -> Tensor:
    return location.clamp(-FARTHEST, FARTHEST)


def _tail(edge: Tensor) -> Tensor:
    """exp(-|t|); where it adds nothing, not so small that a CPU takes many times as long."""
    return torch.exp(-edge.abs().clamp_max(NO_TAIL))


def nearest(low: Tensor, high: Tensor, value: Tensor) -> Tensor:
    """The level of the interval that is nearest to a value."""
    return torch.minimum(torch.maximum(value.round(), low), high)


def likeliest(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    """The likeliest level of the interval.

    That is the one nearest to the location or an end of the interval, as 0 and 255 have the tails.
    """
    level = nearest(low, high, location)
    for end in (low, high):
        mass, of_end = (log_mass(at, at, location, precision) for at in (level, end))
        level = torch.where(of_end > mass, end, level)
    return level.masked_fill(mass.isnan(), torch.nan)


def quantile(
    uniform: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> Tensor:
    r"""The value below which a share ``uniform`` of the interval's mass lies, not rounded.

    From the interval's edge A nearer the tail, :math:`t - A = \mathrm{softplus}(\log q - A) -
    \log(1 - q)` with :math:`q = u\,\sigma(B)\,(1 - e^{A - B})`, which keeps its digits however far
    the interval is from the location and however wide the scale. ``low`` and ``high`` need not be
    whole.
    """
    location = _in_reach(location)
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half = low.new_full((), 0.5)
    far = low.new_full((), UNBOUNDED)
    a = (low - torch.where(low_open, far, half) - location) * precision
    b = (high + torch.where(high_open, far, half) - location) * precision
    mirrored = a + b > 0
    near, other = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    share = torch.where(mirrored, 1 - uniform, uniform)
    share = share.clamp_max(1 - torch.finfo(share.dtype).eps / 2)  # of 1 the quantile is infinite
    width = torch.where(high_open | low_open, far, high - low + 1) * precision
    log_q = share.log() + F.logsigmoid(other) + torch.log(-torch.expm1(-width))
    rest = torch.log1p(-log_q.exp())
    sign = 1 - 2 * mirrored.to(low.dtype)
    edge = torch.where(mirrored, high + half, low - half)
    closed = edge + sign * (F.softplus(log_q - near) - rest) / precision
    opened = location + sign * (log_q - rest) / precision
    return torch.where(torch.where(mirrored, high_open, low_open), opened, closed)


def expectation(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    """The expectation of the logistic on the interval, clipped to [low, high]; float64.

    The integral over t in [low, high] of P(X > t). Far from the location, where that loses its
    digits, by Gauss-Legendre quadrature of the quantiles. ``low`` and ``high`` need not be whole.
    """
    low, high, location, precision = torch.broadcast_tensors(low, high, location, precision)
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half = low.new_full((), 0.5)
    far = low.new_full((), UNBOUNDED)
    below = torch.sigmoid((low - torch.where(low_open, far, half) - location) * precision)
    top = torch.sigmoid((high + torch.where(high_open, far, half) - location) * precision)
    area = F.softplus((high - location) * precision) - F.softplus((low - location) * precision)
    mass = top - below
    value = low + (top * (high - low) - area / precision) / mass
    lost = (mass <= LEAST_MASS) | (precision <= LEAST_PRECISION)
    if lost.any():
        where = [part[lost] for part in (low, high, location, precision)]
        value = value.masked_scatter(lost, _by_quadrature(*where))
    return torch.minimum(torch.maximum(value, low), high)


def _by_quadrature(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = torch.zeros_like(low)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        value = quantile(low.new_full((), (node + 1) / 2), low, high, location, precision)
        total = total + weight * torch.minimum(torch.maximum(value, low), high)
    return total


LOG_SCALES = (-7.0, 7.0)
LOG_LAST_LEVEL = math.log(LAST_LEVEL)
STRIPS = 8  # of an image, of which one at a time is in float64, for the memory it takes


class TruncatedMixture(ImageDistribution):
    r"""A mixture of discretised logistics over images, truncated colour by colour.

    With :math:`P_{kc}` component k's distribution of a pixel's colour c, given those before, and
    :math:`L_c` the levels allowed,

    .. math::
        p(x) = \prod_c \frac{\sum_k w_{kc} P_{kc}(x_c)}{\sum_k w_{kc} P_{kc}(L_c)},
        \quad w_{k1} = \pi_k, \quad w_{k,c+1} = w_{kc} P_{kc}(x_c).

    So a component that hardly reaches an interval hardly counts there. The locations are relative
    to what is known,

    .. math::
        \mu_{kc} = e_c + m_{kc} + \sum_{c'<c} a_{kcc'} (x_{c'} - v_{c'}).

    Images have values on the grid k / 255 of [0, 1]; one that is not within the intervals has
    probability 0. Everything is computed in levels and in float32 or better.

    Args:
        mixture: the weights, parts m of the locations, scales and coefficients a.
        known: low and high, the ends of the intervals; left and expected, v and e; all in levels,
            (..., C, H, W), broadcast with the mixture.
        validate_args: whether to check scored values.

    Example:
        >>> mixture = DiscretizedLogisticMixture.from_channels(torch.randn(2, 50, 4, 4))
        >>> low, high = torch.full((3, 4, 4), 100.0), torch.full((3, 4, 4), 103.0)
        >>> pixels = TruncatedMixture(mixture, Next(low, high, low, low))
        >>> x = pixels.sample()
        >>> x.shape, bool(((255 * x).round() >= 100).all()), pixels.log_prob(x).shape
        (torch.Size([2, 3, 4, 4]), True, torch.Size([2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        mixture: DiscretizedLogisticMixture,
        known: Next,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.mixture, self.known = mixture, known
        batch = broadcast_shape(mixture.batch_shape, *(part.shape[:-3] for part in known))
        super().__init__(batch, mixture.event_shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> TruncatedMixture:
        """The same distribution with a larger batch shape, as views of the same parameters."""
        new = self._get_checked_instance(TruncatedMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        new.mixture, new.known = self.mixture.expand(batch_shape), self.known
        super(TruncatedMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        """-inf for an image (..., C, H, W) that is not within the intervals."""
        low, high, left, expected = self.known
        x = to_levels(value).to(value.dtype)
        possible = ((low <= x) & (x <= high)).flatten(-3).all(-1)
        # An impossible image is scored as if its pixels were in their intervals: no NaN gradients.
        low, high = torch.minimum(low, x), torch.maximum(high, x)
        bases = (expected.unsqueeze(-4) + LAST_LEVEL * self.mixture.means).unbind(-3)
        residuals = (x - left).unsqueeze(-4).unbind(-3)  # (..., 1, H, W) each
        locations = [self._location(base, residuals[:c]) for c, base in enumerate(bases)]
        location = torch.stack(torch.broadcast_tensors(*locations), -3)
        precision = torch.exp(-LOG_LAST_LEVEL - self.mixture.log_scales)
        x, low, high = (part.unsqueeze(-4) for part in (x, low, high))
        shares, intervals = log_masses(x, low, high, location, precision)  # (..., K, C, H, W)
        weights, log_mass = self.mixture.logits, value.new_zeros(())
        # A colour's mass is that of each component's share of its interval, by the components'
        # shares of the mixture's: no difference of large logarithms.
        for share, interval in zip(shares.unbind(-3), intervals.unbind(-3), strict=True):
            weights = (weights + interval).log_softmax(-3) + share
            log_mass = log_mass + weights.logsumexp(-3)
        return log_mass.sum((-2, -1)).masked_fill(~possible, -torch.inf)

    @property
    def noise_like(self) -> Tensor:
        """Of the shape (..., 2C, H, W): C choose a component for each colour, C the colours."""
        channels, height, width = self.event_shape
        like = self.mixture.means.new_empty(())
        return like.expand(*self.batch_shape, 2 * channels, height, width)

    @torch.no_grad()
    def draw(self, uniform: Tensor) -> Tensor:
        """Colour by colour, each of a component that is drawn by its share of the interval."""
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
        """Colour by colour the location of the component with most mass in the interval.

        Each is put on the grid, within the interval, before the next, for which the components
        weigh as they do given that value.
        """
        return self._in_order(lambda low, high, location, precision: location)

    @property
    @torch.no_grad()
    def mode(self) -> Tensor:
        """Colour by colour the likeliest level of the component with most mass in the interval.

        It is the component's location or an end of the interval, as 0 and 255 have the tails.
        Otherwise as :attr:`location`; it need not be the mode of the mixture.
        """
        return self._in_order(likeliest)

    def _in_order(
        self, value_of: Callable[..., Tensor], choices: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Colour by colour, each put on the grid, within its interval, before the next.

        Args:
            value_of: a colour's value (..., 1, H, W) by the interval's ends and its component's
                location and precision.
            choices: noise (..., 1, H, W) for each colour that chooses its component; the one with
                most mass if not given.
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
                component = _likeliest(masses)
            else:
                cumulative = masses.softmax(-3).cumsum(-3)[..., :-1, :, :]
                component = (choices[c] >= cumulative).sum(-3, keepdim=True)
            of_component = (
                torch.take_along_dim(*_alike(part, component), -3) for part in (location, precision)
            )
            level = nearest(low, high, value_of(low, high, *of_component))
            # One component that is no number leaves no share of the others.
            level = level.masked_fill(masses.isnan().any(-3, keepdim=True), torch.nan)
            levels.append(level.squeeze(-3))
            if c < len(lows) - 1:
                residuals.append(level - lefts[c])
                weights = (weights + log_mass(level, level, location, precision)).log_softmax(-3)
        return to_unit(torch.stack(levels, -3), self.mixture.means.dtype)

    @property
    def mean(self) -> Tensor:
        """The expectation, colour by colour.

        Within a component each colour's location is at the earlier colours' expectations, and the
        components are averaged by their mass in the intervals up to that colour's. That is exact
        for the first colour, and for others where the intervals leave the components whole.
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
            Next(*(part[..., rows, :] for part in known)),
            validate_args=False,
        )

    def _expected(self) -> Tensor:
        """The expectation, in float64 within."""
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
        """That of the mixture with logits divided and scales multiplied by a temperature."""
        return TruncatedMixture(
            self.mixture.with_temperature(temperature),
            self.known,
            validate_args=self._validate_args,
        )

    def _location(self, base: Tensor, residuals: Sequence[Tensor]) -> Tensor:
        """The location of the colour after those of the ``residuals``, each less what was left."""
        if residuals and self.mixture.coefficients is not None:
            weights = self.mixture.coefficients.to(base.dtype).unbind(-3)
            # For the second colour of the first, for the third of the first and of the second.
            for weight, residual in zip(weights[len(residuals) - 1 :], residuals, strict=False):
                base = torch.addcmul(base, weight, residual)
        return base


def truncatable(
    parameters: Tensor, channels: int, *, validate_args: bool | None = None
) -> DiscretizedLogisticMixture:
    """The mixture of a network's output, with log-scales clamped to [-7, 7].

    Args: as :meth:`DiscretizedLogisticMixture.from_channels`.
    """
    one = DiscretizedLogisticMixture.parameter_channels(1, channels)
    components = parameters.shape[-3] // one
    colours = components * channels
    sizes = [components] + [colours] * ((one - 1) // channels)
    logits, *parts = at_least_float32(parameters).contiguous().split(sizes, -3)
    means, log_scales, *raw = (part.unflatten(-3, (components, channels)) for part in parts)
    return DiscretizedLogisticMixture(
        logits,
        means,
        log_scales.clamp(*LOG_SCALES),
        raw[0].tanh() if raw else None,
        validate_args=validate_args,
    )


def _likeliest(masses: Tensor) -> Tensor:
    """The first component (..., 1, H, W) with the largest mass, of (..., K, H, W).

    As argmax has it, which on CPUs takes many times as long over outer dimensions.
    """
    count = masses.shape[-3]
    ranks = torch.arange(count, 0, -1, device=masses.device).view(-1, 1, 1)
    largest = torch.where(masses == masses.amax(-3, keepdim=True), ranks, 1)  # of NaN the last
    return count - largest.amax(-3, keepdim=True)


def _alike(parameter: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter (..., K, H, W) and components (..., 1, H, W) with one leading shape."""
    batch = broadcast_shape(parameter.shape[:-3], component.shape[:-3])
    return (
        parameter.expand(batch + parameter.shape[-3:]),
        component.expand(batch + component.shape[-3:]),
    )
