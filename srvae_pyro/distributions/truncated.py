r"""Discretised logistics on an interval of the levels 0..255: share, quantile, expectation.

The interval is from a level ``low`` to a level ``high``; a bin reaches half a level to either side
of its level, and the bins of 0 and of 255 take the whole tail beyond, as does an interval that ends
there. All is in levels: edges are then the same numbers for the two bins that they part, and the
shares of an interval's bins add up to 1.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LAST_LEVEL", "expectation", "log_share", "quantile"]

LAST_LEVEL = 255
# Stands for the infinite reach of the end bins, in levels: divided by any scale of 255 e^-40 to
# 255 e^40 levels its sigmoid is exactly 1 in float32, and it is finite.
UNBOUNDED = 1e22
NODES = 16  # of the quadrature
# Of what the closed form of the expectation has its digits in float64.
LEAST_MASS = 1e-6
LEAST_PRECISION = 1e-12


def log_share(
    level: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> Tensor:
    r"""The logarithm of a bin's share of its interval's mass; all arguments broadcast.

    With the bin's edges a < b and the interval's A <= a, B >= b, in scales from the location, a
    mass is :math:`\sigma(b)\,\sigma(-a)\,(1 - e^{a - b})`. Far from the location the logarithms of
    both masses are large and nearly equal, so their linear parts are cancelled before they are
    computed.

    Args:
        level: the bin's level, a whole number from ``low`` to ``high``.
        low: the interval's first level.
        high: its last.
        location: of the logistic, in levels.
        precision: one over its scale in levels.
    """
    top, bottom = level >= LAST_LEVEL, level <= 0
    high_open, low_open = high >= LAST_LEVEL, low <= 0
    half = level.new_full((), 0.5)
    far = level.new_full((), UNBOUNDED)
    upper = _log_ratio(
        (level + torch.where(top, far, half) - location) * precision,
        (high + torch.where(high_open, far, half) - location) * precision,
        torch.where(high_open, far, high - level) * precision,
    )
    lower = _log_ratio(
        (location - level + torch.where(bottom, far, half)) * precision,
        (location - low + torch.where(low_open, far, half)) * precision,
        torch.where(low_open, far, level - low) * precision,
    )
    bin_width = torch.where(top | bottom, far, 2 * half)
    interval_width = torch.where(high_open | low_open, far, high - low + 1)
    # The logarithm of a quotient, not a difference of two logarithms, which grow with the scale.
    width = torch.expm1(-bin_width * precision) / torch.expm1(-interval_width * precision)
    return upper + lower + width.log()


def _log_ratio(inner: Tensor, outer: Tensor, gap: Tensor) -> Tensor:
    """log sigmoid(inner) - log sigmoid(outer), where outer = inner + gap."""
    linear = torch.minimum(0.5 * (inner.abs() - inner), gap)
    return F.softplus(-outer.abs()) - F.softplus(-inner.abs()) - linear


def quantile(
    uniform: Tensor, low: Tensor, high: Tensor, location: Tensor, precision: Tensor
) -> Tensor:
    r"""The value below which a share ``uniform`` of the interval's mass lies, not rounded.

    From the interval's edge A nearer the tail, :math:`t - A = \mathrm{softplus}(\log q - A) -
    \log(1 - q)` with :math:`q = u\,\sigma(B)\,(1 - e^{A - B})`, which keeps its digits however far
    the interval is from the location and however wide the scale. ``low`` and ``high`` need not be
    whole.
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
