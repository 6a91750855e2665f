r"""RealNVP on a grid: couplings that carry whole numbers to whole numbers, at the flow's rate.

An affine coupling takes x to :math:`e^s (x + t)` for the elements that it changes. On the grid t is
a whole number of cells and :math:`e^s` is R / S, with S = 2^12 and R whole. A whole number r below
R is popped, and

.. math:: R x + r = S y + e, \quad 0 \le e < S

gives y and e, of which e is pushed. This is a bijection of (x, r) and (y, e), and y is the nearest
cell or the next to R x / S. An element so pushes :math:`\log_2 S - \log_2 R` bits more than it
pops, which is what the change of variables subtracts from the base's :math:`-\log_2 p(v)`:
the step of the grid cancels, and the sum is :math:`-\log_2 p(u)` of the flow with R / S in place
of :math:`e^s`, but for the rounding of each y to a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Transform

from srvae_pyro.compression.latents import STEP
from srvae_pyro.compression.stack import MismatchError, Stack, uniform
from srvae_pyro.distributions import AffineCoupling, OnFirstHalf, RealNVP, Squeeze
from srvae_pyro.distributions.realnvp import checkerboard_mask
from srvae_pyro.errors import UserError

__all__ = ["FlowCode"]

SHIFT = 12
UNIT = 1 << SHIFT  # S
FACTORS = (2, 1 << 18)  # what R is clamped to
BOUND = 1 << 40  # of cells, times R: far from what 64 bits hold

Cells = NDArray[np.int64]
Change = Callable[[Stack, Cells, Cells, Cells], Cells]  # of the elements, given R and t


class FlowCode:
    """A RealNVP on whole cells (n, C, H, W), whose scales pop and push bits.

    References:
        Zhang, Kang, Ryder and Li, iFlow: Numerically Invertible Flows for Efficient Lossless
        Compression via a Uniform Coder, 2021, arXiv:2111.00965, section 3.1, for the scaling; Ho,
        Lohn and Abbeel, Compression with Flows via Local Bits-Back Coding, 2019, arXiv:1905.08500,
        for the same end by normals about each value, which costs more bits to start with.

    Args:
        flow: the flow.
    """

    def __init__(self, flow: RealNVP) -> None:
        self.transforms = flow()  # from the base

    def to_base(self, stack: Stack, cells: Tensor) -> Tensor:
        """Carry u's cells to the base's."""
        return _carried(self.transforms, stack, cells, to_base=True)

    def from_base(self, stack: Stack, cells: Tensor) -> Tensor:
        """The inverse of :meth:`to_base`."""
        return _carried(self.transforms, stack, cells, to_base=False)


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
                raise UserError(
                    f"compress has no code for the transform {type(transform).__name__}"
                )
    return cells


def _couple(coupling: AffineCoupling, stack: Stack, cells: Tensor, change: Change) -> Tensor:
    """The cells with those that the coupling changes changed."""
    changed, kept = _parts(coupling, cells)
    values = STEP * kept.double()
    s, t = coupling.scale_and_shift(values.to(next(coupling.network.parameters()).dtype))
    s, t = s.double(), t.double()
    factors = torch.round(torch.exp(s) * UNIT).clamp(*FACTORS)
    shifts = torch.round(t / STEP)
    if not bool((factors.isfinite() & (shifts.abs() < BOUND)).all()):
        raise UserError("the flow p(u) has values that are not finite: train the model again")
    if coupling.pattern == "channels":
        new = _elements(stack, cells_of(coupling, cells), factors, shifts, change)
        parts = [kept, new] if coupling.reverse else [new, kept]
        return torch.cat(parts, -3)
    where = changed.expand_as(cells)
    new = _elements(stack, cells[where], factors[where], shifts[where], change)
    return cells.masked_scatter(where, new)


def _parts(coupling: AffineCoupling, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements are changed, of a checkerboard, and what the network sees."""
    if coupling.pattern == "channels":
        first, second = cells.chunk(2, -3)
        return cells.new_empty(0), first if coupling.reverse else second
    mask = checkerboard_mask(cells.shape[-2], cells.shape[-1], coupling.reverse, cells)
    return mask == 0, cells * mask


def cells_of(coupling: AffineCoupling, cells: Tensor) -> Tensor:
    """The half of the channels that a channel-wise coupling changes."""
    first, second = cells.chunk(2, -3)
    return second if coupling.reverse else first


def _elements(
    stack: Stack, cells: Tensor, factors: Tensor, shifts: Tensor, change: Change
) -> Tensor:
    arrays = (part.long().cpu().reshape(-1).numpy() for part in (cells, factors, shifts))
    return torch.from_numpy(change(stack, *arrays)).to(cells.device).reshape(cells.shape)


def _scaled(stack: Stack, x: Cells, factors: Cells, shifts: Cells) -> Cells:
    """R (x + t) / S, towards the base."""
    if (np.abs(x) > BOUND).any():
        raise MismatchError("the flow p(u) takes values too far away")
    total = (x + shifts) * factors + stack.pop(*uniform(factors))
    stack.push(total & (UNIT - 1), *uniform(np.full(len(x), UNIT)))
    return total >> SHIFT


def _unscaled(stack: Stack, y: Cells, factors: Cells, shifts: Cells) -> Cells:
    """The inverse of :func:`_scaled`."""
    total = (y << SHIFT) + stack.pop(*uniform(np.full(len(y), UNIT)))
    x, rest = np.divmod(total, factors)
    stack.push(rest, *uniform(factors))
    return x - shifts
