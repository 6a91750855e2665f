"""Tables of the levels of pixels, and the two ways of using them: onto the stack, and off it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srvae_pyro.compression.stack import CATEGORICAL, Stack, Symbols
from srvae_pyro.distributions import TruncatedMixture
from srvae_pyro.distributions.truncated import LAST_LEVEL, log_mass

__all__ = ["Code", "Put", "Take", "code_levels", "on_grid"]

RADIX = 16  # of a level's two symbols: 16 x 16 = 256, with tables of 16 instead of 256 values
CHUNK = 4096  # pixels at a time; part of the format, as it may decide about last bits
# What is read from a network's output is rounded to multiples of these: most differences of
# last bits are then gone.
LEVELS_GRID, LOG_GRID, COEFFICIENT_GRID = 2.0**-12, 2.0**-12, 2.0**-16


Shares = NDArray[np.float32]


class Code(Protocol):
    """Codes symbols (n) under rows of probabilities (n, values): returns them.

    Symbols are given where they are known, to be put on a stack, and else come from one.
    """

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols: ...


class Put:
    """Notes symbols in the order in which they are known, and then pushes them in reverse."""

    def __init__(self) -> None:
        self.noted: list[tuple[Symbols, Shares]] = []

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols:
        assert symbols is not None
        known: Symbols = symbols.astype(np.int32)
        self.noted.append((known, probabilities))
        return known

    def push(self, stack: Stack) -> None:
        """Put all that was noted on a stack, which gives it back in the order it was noted in."""
        while self.noted:
            symbols, probabilities = self.noted.pop()
            stack.push(symbols, CATEGORICAL, probabilities)


class Take:
    """Pops symbols in the order in which they were noted.

    Args:
        stack: that they are on.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols:
        return self.stack.pop(CATEGORICAL, probabilities)


def on_grid(values: Tensor, step: float) -> Tensor:
    """The nearest multiples of ``step``, a power of 2; float64."""
    return torch.round(values.double() / step) * step


@dataclass(frozen=True)
class _Pixels:
    """What a TruncatedMixture says of N pixels; float64, in levels.

    Attributes:
        weights: (N, K), logarithms of the components' weights.
        base: (N, K, C), the locations' parts that do not depend on the earlier colours.
        precision: (N, K, C), one over the scales.
        coefficients: (N, K, 3), or of no columns for one colour.
        low: (N, C), the least level.
        high: (N, C), the largest.
        left: (N, C), what earlier colours are taken relative to.
    """

    weights: Tensor
    base: Tensor
    precision: Tensor
    coefficients: Tensor
    low: Tensor
    high: Tensor
    left: Tensor

    @classmethod
    def of(cls, pixels: TruncatedMixture) -> _Pixels:
        """The pixels of all pictures, picture by picture, row by row."""
        mixture, known = pixels.mixture, pixels.known
        batch, event = pixels.batch_shape[0], tuple(pixels.event_shape)

        def rows(part: Tensor, leading: int) -> Tensor:
            """(B, leading dimensions, H, W) to (N, leading dimensions)."""
            shape = (batch, *part.shape[part.dim() - 2 - leading :])
            return part.expand(shape).movedim((-2, -1), (1, 2)).flatten(0, 2).double()

        low, high, left, expected = (rows(part.expand(batch, *event), 1) for part in known)
        base = expected.unsqueeze(1) + LAST_LEVEL * rows(mixture.means, 2)
        log_scales = on_grid(rows(mixture.log_scales, 2) + math.log(LAST_LEVEL), LOG_GRID)
        coefficients = mixture.coefficients
        if coefficients is None:
            coefficients = mixture.means[..., :0, :, :]
        return cls(
            on_grid(rows(mixture.logits, 1), LOG_GRID),
            on_grid(base, LEVELS_GRID),
            torch.exp(-log_scales),
            on_grid(rows(coefficients, 2), COEFFICIENT_GRID),
            low,
            high,
            on_grid(left, LEVELS_GRID),
        )

    def chunks(self) -> list[_Pixels]:
        """The same in parts of CHUNK pixels."""
        parts = (getattr(self, field.name).split(CHUNK) for field in fields(self))
        return [_Pixels(*part) for part in zip(*parts, strict=True)]


def code_levels(code: Code, pixels: TruncatedMixture, levels: Tensor | None = None) -> Tensor:
    """Code a group of pixels, colour by colour as they are drawn.

    A level is two symbols, its sixteen and its place there, each with the exact share of the
    mixture's mass within the interval, in float64. Where the interval leaves one value it has all.

    Args:
        code: onto or off a stack.
        pixels: the distribution, of batch shape (B).
        levels: whole numbers (B, C, H, W), where they are known.

    Returns:
        The levels, int64 (B, C, H, W).
    """
    channels, height, width = pixels.event_shape
    rows = None
    if levels is not None:
        rows = levels.movedim(1, -1).reshape(-1, channels)
    made = []
    start = 0
    for part in _Pixels.of(pixels).chunks():
        stop = start + len(part.low)
        made.append(_code_chunk(code, part, None if rows is None else rows[start:stop]))
        start = stop
    return torch.cat(made).reshape(-1, height, width, channels).movedim(-1, 1).contiguous()


def _code_chunk(code: Code, pixels: _Pixels, levels: Tensor | None) -> Tensor:
    """The levels of some pixels, (N, C)."""
    weights, made = pixels.weights, list[Tensor]()
    device = weights.device
    first = torch.arange(RADIX, device=device, dtype=torch.float64)
    for c in range(pixels.low.shape[1]):
        location = pixels.base[..., c]
        for earlier, level in enumerate(made):
            coefficient = pixels.coefficients[..., c * (c - 1) // 2 + earlier]
            residual = (level - pixels.left[:, earlier]).unsqueeze(-1)
            location = location + coefficient * residual
        given = (weights, location, pixels.precision[..., c])
        low, high = (bound[:, c, None] for bound in (pixels.low, pixels.high))
        known = None if levels is None else levels[:, c]
        sixteen = RADIX * first.expand(len(location), -1)
        shares = _shares(sixteen, sixteen + RADIX - 1, low, high, *given)
        symbols = code(shares, None if known is None else (known // RADIX).cpu().numpy())
        coarse = torch.from_numpy(symbols).to(device).double().unsqueeze(-1)
        exact = RADIX * coarse + first
        shares = _shares(exact, exact, low, high, *given)
        symbols = code(shares, None if known is None else (known % RADIX).cpu().numpy())
        fine = torch.from_numpy(symbols).to(device).double().unsqueeze(-1)
        level = RADIX * coarse + fine
        weights = (weights + log_mass(level, level, *given[1:])).log_softmax(-1)
        made.append(level.squeeze(-1))
    return torch.stack(made, -1).long()


def _shares(
    first: Tensor,
    last: Tensor,
    low: Tensor,
    high: Tensor,
    weights: Tensor,
    location: Tensor,
    precision: Tensor,
) -> Shares:
    """Shares of the mixture's mass of the levels from ``first`` to ``last`` within an interval.

    Args:
        first: (N, bins).
        last: (N, bins).
        low: (N, 1), the interval's end.
        high: (N, 1), its other.
        weights: (N, K), logarithms.
        location: (N, K).
        precision: (N, K).
    """
    lows, highs = torch.maximum(first, low), torch.minimum(last, high)
    possible = lows <= highs
    ends = (lows.unsqueeze(-1), torch.maximum(highs, lows).unsqueeze(-1))
    masses = log_mass(*ends, location.unsqueeze(1), precision.unsqueeze(1))  # (N, bins, K)
    scores = (weights.unsqueeze(1) + masses).logsumexp(-1)
    shares: Shares = scores.masked_fill(~possible, -torch.inf).softmax(-1).cpu().numpy()
    return shares
