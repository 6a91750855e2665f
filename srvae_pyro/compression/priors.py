"""The priors of latents, as what puts cells of their grid on a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Transform

from srvae_pyro.compression.ans import (
    CATEGORICAL,
    STEP,
    MismatchError,
    Stack,
    as_array,
    as_tensor,
    pop_normal,
    push_normal,
    uniform,
)
from srvae_pyro.distributions import (
    AffineCoupling,
    MixturePrior,
    OnFirstHalf,
    RealNVPPrior,
    Squeeze,
    StandardPrior,
)
from srvae_pyro.distributions.realnvp import checkerboard_mask
from srvae_pyro.errors import UserError

SHIFT = 12
UNIT = 1 << SHIFT  # S
FACTORS = (2, 1 << 18)  # what R is clamped to
BOUND = 1 << 40  # of cells, times R: far from what 64 bits hold

Cells = NDArray[np.int64]
Change = Callable[[Stack, Cells, Cells, Cells], Cells]  # of the elements, given R and t


def _carried(
    transforms: Sequence[Transform], stack: Stack, cells: Tensor, *, to_base: bool
) -> Tensor:
    """The cells carried through all transforms, one way or the other."""
    for transform in reversed(transforms) if to_base else transforms:
        match transform:
            case AffineCoupling():
                cells = _couple(transform, stack, cells, _scaled if to_base else _unscaled)
            case Squeeze():
                cells = transform.to_base(cells)[0] if to_base else transform.from_base(cells)
            case OnFirstHalf():
                half, rest = cells.chunk(2, -3)
                half = _carried(transform.part.parts, stack, half, to_base=to_base)
                cells = torch.cat([half, rest], -3)
            case _:
                raise UserError(f"compress cannot code the transform {type(transform).__name__}")
    return cells


def _couple(coupling: AffineCoupling, stack: Stack, cells: Tensor, change: Change) -> Tensor:
    changed, kept = _parts(coupling, cells)
    values = STEP * kept.double()
    s, t = coupling.scale_and_shift(values.to(next(coupling.network.parameters()).dtype))
    s, t = s.double(), t.double()
    factors = torch.round(torch.exp(s) * UNIT).clamp(*FACTORS)
    shifts = torch.round(t / STEP)
    if not bool((factors.isfinite() & (shifts.abs() < BOUND)).all()):
        raise UserError("the flow p(u) has values that are not finite: train the model again")
    if coupling.pattern == "channels":
        new = _elements(stack, changed, factors, shifts, change)
        parts = [kept, new] if coupling.reverse else [new, kept]
        return torch.cat(parts, -3)
    where = changed.expand_as(cells)
    new = _elements(stack, cells[where], factors[where], shifts[where], change)
    return cells.masked_scatter(where, new)


def _parts(coupling: AffineCoupling, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The changed channels, or squares of a checkerboard, and what the network sees."""
    if coupling.pattern == "channels":
        first, second = cells.chunk(2, -3)
        return (second, first) if coupling.reverse else (first, second)
    mask = checkerboard_mask(cells.shape[-2], cells.shape[-1], coupling.reverse, cells)
    return mask == 0, cells * mask


def _elements(
    stack: Stack, cells: Tensor, factors: Tensor, shifts: Tensor, change: Change
) -> Tensor:
    arrays = (part.long().cpu().reshape(-1).numpy() for part in (cells, factors, shifts))
    return torch.from_numpy(change(stack, *arrays)).to(cells.device).reshape(cells.shape)


def _scaled(stack: Stack, x: Cells, factors: Cells, shifts: Cells) -> Cells:
    """R (x + t) / S, towards the base."""
    if (np.abs(x) > BOUND).any():
        raise MismatchError("the flow p(u) has values too large to code")
    total = (x + shifts) * factors + stack.pop(*uniform(factors))
    stack.push(total & (UNIT - 1), *uniform(np.full(len(x), UNIT)))
    return total >> SHIFT


def _unscaled(stack: Stack, y: Cells, factors: Cells, shifts: Cells) -> Cells:
    """The inverse of :func:`_scaled`."""
    total = (y << SHIFT) + stack.pop(*uniform(np.full(len(y), UNIT)))
    x, rest = np.divmod(total, factors)
    stack.push(rest, *uniform(factors))
    return x - shifts


class PriorCode:
    """The code of a prior of latents (n, C, H, W); cell 0 is at ``location``."""

    location: Tensor | float = 0.0
    scale: Tensor | float = 1.0

    def values(self, cells: Tensor) -> Tensor:
        """The latents in these cells, float64."""
        return self.location + self.scale * (STEP * cells.double())

    def push(self, stack: Stack, cells: Tensor) -> None:
        """Push cells, whole numbers (n, C, H, W)."""
        raise NotImplementedError

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        raise NotImplementedError


class NormalCode(PriorCode):
    """A normal with a mean and a scale for each element, standard in its own units."""

    def __init__(
        self, like: Tensor, location: Tensor | float = 0.0, scale: Tensor | float = 1.0
    ) -> None:
        self.like, self.location, self.scale = like, location, scale

    def push(self, stack: Stack, cells: Tensor) -> None:
        flat = as_cells(cells)
        push_normal(stack, flat, *_standard(len(flat)))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        cells = pop_normal(stack, *_standard(int(np.prod(shape))))
        return as_tensor(cells, self.like, shape)


class MixtureCode(PriorCode):
    """A mixture of normals: the component is drawn given u by bits that come back, then coded."""

    def __init__(self, prior: MixturePrior) -> None:
        self.prior = prior
        mixture = prior()
        normals = mixture.component_distribution
        self.log_weights = mixture.mixture_distribution.logits.double()
        self.means = normals.mean.double()
        self.scales = normals.stddev.double()
        # In cells, (K, C * H * W), off whose grid last bits do not matter.
        self.middles = np.round(as_array(self.means / STEP) * 16).reshape(len(self.means), -1) / 16
        scales = np.round(as_array(self.scales / STEP) * 64).reshape(len(self.means), -1) / 64
        self.widths = np.maximum(scales, 1 / 64)

    def _given(self, cells: Tensor) -> NDArray[np.float64]:
        """The components' probabilities given u, (n, K + 1), the last none."""
        u = self.values(cells).unsqueeze(1)
        densities = torch.distributions.Normal(self.means, self.scales, validate_args=False)
        scores = self.log_weights + densities.log_prob(u).flatten(2).sum(-1)
        # Rounded, and one that is impossible added: the coder takes no table of one value.
        return _with_none(torch.round(scores.softmax(-1) * 2**20) / 2**20 + 2.0**-24)

    def _prior(self, count: int) -> NDArray[np.float64]:
        return _with_none(self.log_weights.softmax(-1).expand(count, -1))

    def push(self, stack: Stack, cells: Tensor) -> None:
        component = stack.pop(CATEGORICAL, self._given(cells))
        chosen = np.minimum(component, len(self.middles) - 1)
        middle, width = self.middles[chosen].reshape(-1), self.widths[chosen].reshape(-1)
        push_normal(stack, as_cells(cells), middle, width)
        stack.push(component, CATEGORICAL, self._prior(len(cells)))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        component = stack.pop(CATEGORICAL, self._prior(shape[0]))
        chosen = np.minimum(component, len(self.middles) - 1)
        middle, width = self.middles[chosen].reshape(-1), self.widths[chosen].reshape(-1)
        cells = as_tensor(pop_normal(stack, middle, width), self.prior.anchor, shape)
        stack.push(component, CATEGORICAL, self._given(cells))
        return cells


class RealNVPCode(PriorCode):
    """A RealNVP on cells (n, C, H, W) by iFlow (Zhang et al. 2021, arXiv:2111.00965, 3.1)."""

    def __init__(self, prior: RealNVPPrior) -> None:
        self.transforms = prior.flow()  # from the base
        self.base = NormalCode(prior.anchor)

    def to_base(self, stack: Stack, cells: Tensor) -> Tensor:
        return _carried(self.transforms, stack, cells, to_base=True)

    def push(self, stack: Stack, cells: Tensor) -> None:
        self.base.push(stack, self.to_base(stack, cells))

    def pop(self, stack: Stack, shape: tuple[int, int, int, int]) -> Tensor:
        cells = self.base.pop(stack, shape)
        return _carried(self.transforms, stack, cells, to_base=False)


def prior_code(prior: nn.Module) -> PriorCode:
    match prior:
        case StandardPrior():
            return NormalCode(prior.anchor)
        case MixturePrior():
            return MixtureCode(prior)
        case RealNVPPrior():
            return RealNVPCode(prior)
    raise UserError(f"compress cannot code the prior {type(prior).__name__}")


def as_cells(cells: Tensor) -> Cells:
    flat: Cells = cells.long().cpu().reshape(-1).numpy()
    return flat


def _standard(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.zeros(count), np.full(count, 1 / STEP)


def _with_none(table: Tensor) -> NDArray[np.float64]:
    padded: NDArray[np.float64] = nn.functional.pad(table, (0, 1)).cpu().numpy()
    return padded
