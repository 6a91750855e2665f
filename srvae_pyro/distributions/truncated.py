r"""Discretised logistics on an interval of the levels 0..255: mass, quantile, expectation.

Intervals are from ``low`` to ``high``, ``location`` in levels, ``precision`` one over the scale in
levels. A bin reaches half a level to either side; those of 0 and 255 take the tails, as does an
interval that ends there. In levels neighbouring bins have the same edge, so shares add up to 1.
"""

from __future__ import annotations

from itertools import compress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.pixels import LAST_LEVEL

# The reach of the end bins, in levels.
UNBOUNDED = 1e38
# The same for autograd: divided by scales of 255 e^-40 to 255 e^40 it is finite, its sigmoid 1.
FINITE = 1e22
NO_TAIL = 80  # scales from the location: a logistic's tail adds nothing there, even in float64
NODES = 16  # of the quadrature
# Below these the closed form of the expectation loses its digits in float64.
LEAST_MASS = 1e-6
LEAST_PRECISION = 1e-12


def log_masses(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The logarithms of a bin's share of its interval's mass, and of that mass.

    All arguments broadcast. A bin with edges a < b, in scales from the location, has the mass
    :math:`\sigma(b)\,\sigma(-a)\,(1 - e^{a - b})`. Far from the location the logarithms of both
    masses are large and nearly equal, so their linear parts are cancelled analytically.
    """
    if torch._C._are_functorch_transforms_active():  # no custom gradients
        return _log_masses(level, low, high, location, precision)
    masses: tuple[Tensor, Tensor] = _LogMasses.apply(level, low, high, location, precision)
    return masses


def _log_masses(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`log_masses` for derivatives of any order and the transforms of ``torch.func``.

    Smooth, while the pieces of :class:`_Side` have no second derivative where they meet.
    """
    level, low, high = level.detach(), low.detach(), high.detach()
    location = location.clamp(-FINITE / 10, FINITE / 10)
    upper, lower, bin_width, width = _edges(level, low, high, location, precision, FINITE)
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
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor, reach: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """The edges, as of :class:`_Side`, and widths of a bin and its interval, in scales."""
    top, bottom = level >= LAST_LEVEL, level <= 0
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half, far, wide = (level.new_full((), number) for number in (0.5, reach, FINITE))
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
    bin_width = torch.where(top | bottom, wide, 2 * half) * precision
    width = torch.where(high_open | low_open, wide, high - low + 1) * precision
    return upper, lower, bin_width, width


class _LogMasses(torch.autograd.Function):
    """:func:`log_masses` with its gradients in closed form, which cost less than autograd's."""

    @staticmethod
    def forward(
        ctx: Any, level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
    ) -> tuple[Tensor, Tensor]:
        above, below, bin_width, width = _edges(level, low, high, location, precision, UNBOUNDED)
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

    ``inner`` and ``outer`` are the bin's and the interval's edge in scales from the location,
    outwards, ``back`` their difference. By :math:`\log\sigma(t) = \min(t, 0) - \log(1 + e^{-|t|})`,
    log sigmoid(outer) = end - log(outer_factor), and
    log sigmoid(inner) - log sigmoid(outer) = linear - log(inner_factor / outer_factor).
    """

    def __init__(self, inner: Tensor, outer: Tensor, back: Tensor) -> None:
        self.inner, self.outer = inner, outer
        self.near, self.far = (edge.abs().clamp_max_(NO_TAIL) for edge in (inner, outer))
        self.tail_in, self.tail_out = (edge.neg().exp_() for edge in (self.near, self.far))
        self.inner_factor, self.outer_factor = 1 + self.tail_in, 1 + self.tail_out
        self.linear, self.end = torch.maximum(inner.clamp_max(0), back), outer.clamp_max(0)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives by the edges, moved together: of log sigmoid(t) sigmoid(-t)."""
        outer = torch.sigmoid(-self.outer)
        return torch.sigmoid(-self.inner) - outer, outer

    def by_precision(self) -> tuple[Tensor, Tensor]:
        """Derivatives by the log-precision: of log sigmoid(t) t sigmoid(-t)."""
        inner = self.near * (self.tail_in / self.inner_factor)
        outer = self.far * (self.tail_out / self.outer_factor)
        return self.linear + inner - outer, self.end + outer


def log_mass(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    """The logarithm of an interval's mass."""
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


def _tail(edge: Tensor) -> Tensor:
    """exp(-|t|), clamped above denormals, which are slow on CPUs."""
    return torch.exp(-edge.abs().clamp_max(NO_TAIL))


def nearest(low: Tensor, high: Tensor, value: Tensor) -> Tensor:
    """The level of the interval that is nearest to a value."""
    return torch.minimum(torch.maximum(value.round(), low), high)


def likeliest(low: Tensor, high: Tensor, location: Tensor, precision: Tensor) -> Tensor:
    """The likeliest level of the interval: nearest to the location, or an end if it has a tail."""
    level = nearest(low, high, location)
    for end in (low, high):
        mass, of_end = (log_mass(at, at, location, precision) for at in (level, end))
        level = torch.where(of_end > mass, end, level)
    return level.masked_fill(mass.isnan(), torch.nan)


def quantile(
    uniform: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> Tensor:
    r"""The value below which a share u of the interval's mass lies, not rounded.

    From the edge A nearer the tail, :math:`t - A = \mathrm{softplus}(\log q - A) - \log(1 - q)`
    with :math:`q = u\,\sigma(B)\,(1 - e^{A - B})`: exact at any location and scale.
    """
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
