"""Pixels as symbols: tables of their levels, factor by factor, with the same bits everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srvae_pyro.compression.ans import CATEGORICAL, Stack, Symbols
from srvae_pyro.compression.exact import exp, exp_of_negative, total
from srvae_pyro.distributions import (
    ConsistentGroups,
    DiscretizedLogisticMixture,
    ImageDistribution,
    Pyramid,
    TruncatedMixture,
)
from srvae_pyro.distributions.block_averages import PixelContext
from srvae_pyro.errors import UserError
from srvae_pyro.pixels import LAST_LEVEL, to_unit

RADIX = 16  # of a level's two symbols: 16 x 16 = 256, with tables of 16 instead of 256 values
CHUNK = 1024  # pixels at a time; part of the format, which has their symbols in this order
# What is read from a network's output is rounded to multiples of these: most differences of
# last bits are then gone.
LEVELS_GRID, LOG_GRID, COEFFICIENT_GRID = 2.0**-12, 2.0**-12, 2.0**-16
UNBOUNDED = 1e22  # levels: stands for the infinite reach of the bins of 0 and of 255
# What is far below is lifted to these, so that no number is so small that processors may take it
# for 0: of a level's mass, of a component's weight, of a symbol's share.
LEAST_MASS, LEAST_WEIGHT, LEAST_SHARE = 1e-290, 2.0**-100, 2.0**-60


Shares = NDArray[np.float32]


class Code(Protocol):
    """Codes symbols (n) under rows of probabilities (n, values): known ones, or from a stack."""

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols: ...


class Put:
    """Notes symbols in the order in which they are known, and pushes them in reverse."""

    def __init__(self) -> None:
        self.noted: list[tuple[Symbols, Shares]] = []

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols:
        assert symbols is not None
        known: Symbols = symbols.astype(np.int32)
        self.noted.append((known, probabilities))
        return known

    def push(self, stack: Stack) -> None:
        while self.noted:
            symbols, probabilities = self.noted.pop()
            stack.push(symbols, CATEGORICAL, probabilities)


class Take:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def __call__(self, probabilities: Shares, symbols: NDArray[Any] | None) -> Symbols:
        return self.stack.pop(CATEGORICAL, probabilities)


def on_grid(values: Tensor, step: float) -> Tensor:
    """The nearest multiples of ``step``, a power of 2; float64."""
    return torch.round(values.double() / step) * step


@dataclass(frozen=True)
class _Pixels:
    """The parameters of a TruncatedMixture for N pixels; float64, in levels."""

    weights: Tensor  # (N, K), the components' weights, the largest 1
    base: Tensor  # (N, K, C), the locations' parts that do not depend on the earlier colours
    precision: Tensor  # (N, K, C), one over the scales
    coefficients: Tensor  # (N, K, 3), or of no columns for one colour
    low: Tensor  # (N, C), the least level
    high: Tensor  # (N, C), the largest
    left: Tensor  # (N, C), what earlier colours are taken relative to

    @classmethod
    def of(cls, pixels: TruncatedMixture) -> _Pixels:
        """The pixels of all images, image by image, row by row."""
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
        logits = on_grid(rows(mixture.logits, 1), LOG_GRID)
        return cls(
            exp_of_negative(logits - logits.amax(-1, keepdim=True)),
            on_grid(base, LEVELS_GRID),
            exp(-log_scales),
            on_grid(rows(coefficients, 2), COEFFICIENT_GRID),
            low,
            high,
            on_grid(left, LEVELS_GRID),
        )

    def chunks(self) -> list[_Pixels]:
        parts = (getattr(self, field.name).split(CHUNK) for field in fields(self))
        return [_Pixels(*part) for part in zip(*parts, strict=True)]


def code_levels(code: Code, pixels: TruncatedMixture, levels: Tensor | None = None) -> Tensor:
    """Code a group of pixels, a level as two symbols: the levels, int64 (B, C, H, W)."""
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
    edges = torch.arange(RADIX + 1, device=device, dtype=torch.float64) - 0.5
    for c in range(pixels.low.shape[1]):
        location = pixels.base[..., c]
        for earlier, level in enumerate(made):
            coefficient = pixels.coefficients[..., c * (c - 1) // 2 + earlier]
            location = location + coefficient * (level - pixels.left[:, earlier : earlier + 1])
        bins = _Bins(
            location, pixels.precision[..., c], pixels.low[:, c, None], pixels.high[:, c, None]
        )
        known = None if levels is None else levels[:, c]
        shares, _ = bins.shares(weights, RADIX * (edges + 0.5).expand(len(location), -1) - 0.5)
        symbols = code(shares, None if known is None else (known // RADIX).cpu().numpy())
        coarse = RADIX * torch.from_numpy(symbols).to(device).double().unsqueeze(-1)
        shares, masses = bins.shares(weights, coarse + edges)
        symbols = code(shares, None if known is None else (known % RADIX).cpu().numpy())
        fine = torch.from_numpy(symbols).to(device).long()[:, None, None]
        of_level = masses.gather(-1, fine.expand(*masses.shape[:2], 1)).squeeze(-1)
        weights = _reweighted(weights, of_level)
        made.append(coarse + fine.squeeze(-1).double())
    return torch.cat(made, -1).long()


def _reweighted(weights: Tensor, masses: Tensor) -> Tensor:
    """The components' weights (N, K) given a level to which they give these masses."""
    new = weights * masses
    largest = new.amax(-1, keepdim=True)
    possible = largest > LEAST_MASS
    new = new / torch.where(possible, largest, torch.ones_like(largest))
    return torch.where(possible, new, weights).clamp_min(LEAST_WEIGHT)


@dataclass(frozen=True)
class _Bins:
    """Components' masses of bins of levels within an interval."""

    location: Tensor  # (N, K)
    precision: Tensor  # (N, K)
    low: Tensor  # (N, 1), the interval's first level
    high: Tensor  # (N, 1), its last

    def shares(self, weights: Tensor, edges: Tensor) -> tuple[Shares, Tensor]:
        """The mixture's shares (N, bins) and the components' masses (N, K, bins) by edges."""
        edges = torch.minimum(torch.maximum(edges, self.low - 0.5), self.high + 0.5)
        masses = self._masses(edges)
        widths = edges[:, 1:] - edges[:, :-1]
        # By its width where no component reaches.
        mixed = total(weights.unsqueeze(-1) * masses, [1]) + LEAST_MASS * widths
        shares = (mixed / total(mixed, [-1], keepdim=True)).clamp_min(LEAST_SHARE)
        made: Shares = shares.float().cpu().numpy()
        return made, masses

    def _masses(self, edges: Tensor) -> Tensor:
        """Differences of the smaller tails beyond the edges, which keep their digits."""
        edges = edges.masked_fill(edges < 0, -UNBOUNDED).masked_fill(edges > LAST_LEVEL, UNBOUNDED)
        ends = (edges.unsqueeze(1) - self.location.unsqueeze(-1)) * self.precision.unsqueeze(-1)
        tails = exp_of_negative(-ends.abs())
        tails = tails / (1 + tails)
        first, last = tails[..., :-1], tails[..., 1:]
        around = (ends[..., :-1] <= 0) & (ends[..., 1:] > 0)  # the location is within
        return torch.where(around, 1 - first - last, (last - first).abs())


# Codes a factor: its distribution, its levels where they are known; returns the levels.
Factor = Callable[[TruncatedMixture, Tensor | None], Tensor]


def code_image(likelihood: ImageDistribution, factor: Factor, levels: Tensor | None) -> Tensor:
    """Pass an image's factors to ``factor``, each given the levels of those before."""
    match likelihood:
        case Pyramid():
            return _pyramid(likelihood, factor, levels)
        case ConsistentGroups():
            return _groups(likelihood, factor, levels)
        case DiscretizedLogisticMixture():
            # The context of an unconstrained pixel: locations are the mixture's own.
            none = likelihood.means.new_zeros(likelihood.event_shape)
            context = PixelContext(none, torch.full_like(none, LAST_LEVEL), none, none)
            return factor(TruncatedMixture(likelihood, context), levels)
        case TruncatedMixture():
            return factor(likelihood, levels)
    raise UserError(f"compress cannot code the likelihood {type(likelihood).__name__}")


def _pyramid(pyramid: Pyramid, factor: Factor, levels: Tensor | None) -> Tensor:
    parts = [levels]
    for _ in pyramid.finer:
        finest = parts[-1]
        parts.append(None if finest is None else pyramid.block.average(finest))
    parts.reverse()
    image = code_image(pyramid.coarsest, factor, parts[0])
    for finer, part in zip(pyramid.finer, parts[1:], strict=True):
        image = code_image(finer(to_unit(image, pyramid.uniform_noise.dtype)), factor, part)
    return image


def _groups(groups: ConsistentGroups, factor: Factor, levels: Tensor | None) -> Tensor:
    parts = [None] * groups.block.pixels if levels is None else groups.block.groups(levels)
    made: list[Tensor] = []
    for part in parts:
        before = [to_unit(image, groups.y.dtype) for image in made]
        made.append(factor(groups.group(before) if made else groups.first, part))
    return groups.block.from_groups(made)
