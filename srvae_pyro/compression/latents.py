"""Latents on a grid: the posterior, whose bits come back, and the priors.

A latent is a whole number of steps of 2^-10, in units of its prior. Of such a grid a density's mass
in a cell is the step times the density, so prior and posterior share the step, which cancels.
"""

from __future__ import annotations

from decimal import Context, Decimal

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srvae_pyro.compression.stack import CATEGORICAL, Stack, uniform

__all__ = ["LEAST_BITS", "STEP", "Posterior", "pop_normal", "push_normal"]

STEP = 2.0**-10
LEAST_BITS = 11  # of an element under a standard normal: its likeliest cell takes 11.3
# Of the posterior: buckets of a tenth of its standard deviation, out to 6.4 of them.
BUCKETS, REACH = 128, 6.4
PI, TERMS = Decimal("3.14159265358979323846264338327950288419716939937510"), 150
LEAST = 32.0  # cells that it has as its standard deviation: 3 a bucket
MOST = 2.0**18
FAR = 2.0**21  # cells
# Of the prior: cells in one model of the coder's, and parts of so many cells beside it.
CELLS = 2**15
NORMAL = constriction.stream.model.QuantizedGaussian(-CELLS, CELLS - 1)
PARTS = constriction.stream.model.QuantizedGaussian(-128, 127)
PART_STD = 0.05  # so that the part 0 has next to all of the mass


def _masses() -> NDArray[np.float64]:
    """Of the buckets, by decimal arithmetic, whose digits are the same everywhere."""
    precise = Context(prec=50)
    root = precise.sqrt(precise.multiply(2, PI))

    def below(edge: Decimal) -> float:
        """The normal's mass below it: 1/2 + its density times x + x^3 / 3 + x^5 / (3 5) + ..."""
        term = series = edge
        for odd in range(3, 2 * TERMS, 2):
            term = precise.divide(precise.multiply(term, precise.multiply(edge, edge)), odd)
            series = precise.add(series, term)
        exponent = precise.divide(precise.multiply(edge, edge), -2)
        density = precise.divide(precise.exp(exponent), root)
        return float(precise.add(Decimal("0.5"), precise.multiply(density, series)))

    half_way = BUCKETS // 2
    edges = (Decimal(i - half_way) * Decimal(str(REACH)) / half_way for i in range(half_way + 1))
    half = np.diff([below(edge) for edge in edges])
    return np.concatenate([half, half[::-1]])


class Posterior:
    r"""A diagonal normal on the grid, as steps of a tenth of its standard deviation.

    A bucket is one symbol of a fixed table; the cell within it is uniform. That differs from the
    normal by a KL of about :math:`h^2/24`, h = 0.1: 0.0006 bits an element. All draws are within
    6.4 standard deviations: the coder gives each value of a table some mass, and of a table of all
    cells that would now and then draw one from far away.

    Args:
        mean: in cells, (n).
        std: standard deviations in cells, (n).

    Example:
        >>> q = Posterior(np.array([0.0, 500.0]), np.array([100.0, 40.0]))
        >>> stack = Stack()
        >>> cells = q.pop(stack)
        >>> q.push(stack, cells)
        >>> stack.is_at_start()
        True
    """

    masses = _masses()

    def __init__(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError("a posterior has values that are not finite")
        # Rounded far below what matters, so that last bits seldom do.
        self.middle = np.clip(np.round(16 * mean) / 16, -FAR, FAR)
        self.width = np.clip(np.round(64 * std) / 64, LEAST, MOST) * (2 * REACH / BUCKETS)

    def _edge(self, bucket: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first cell of each element's bucket."""
        edge = np.floor(self.middle + (bucket - BUCKETS // 2) * self.width)
        return edge.astype(np.int64)

    def _table(self) -> NDArray[np.float64]:
        return np.broadcast_to(self.masses, (len(self.middle), BUCKETS)).copy()

    def pop(self, stack: Stack) -> NDArray[np.int64]:
        """Draw the cells, (n), by what is on the stack."""
        bucket = stack.pop(CATEGORICAL, self._table()).astype(np.int64)
        first = self._edge(bucket)
        return first + stack.pop(*uniform(self._edge(bucket + 1) - first))

    def push(self, stack: Stack, cells: NDArray[np.int64]) -> None:
        """Give back what drawing these cells took."""
        guess = np.floor((cells - self.middle) / self.width).astype(np.int64) + BUCKETS // 2
        bucket = np.clip(guess, 0, BUCKETS - 1)
        for _ in range(2):  # edges are rounded
            bucket -= self._edge(bucket) > cells
            bucket += self._edge(bucket + 1) <= cells
        first = self._edge(bucket)
        stack.push(cells - first, *uniform(self._edge(bucket + 1) - first))
        stack.push(bucket, CATEGORICAL, self._table())


def push_normal(
    stack: Stack, cells: NDArray[np.int64], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> None:
    """Put cells (n) on the stack under normals; mean and standard deviation are in cells.

    Those farther than 2^15 cells away are coded as well, at a cost that they do not have under the
    normal but that keeps the code lossless.
    """
    middle = np.round(mean).astype(np.int64)
    part, within = np.divmod(cells - middle + CELLS, 2 * CELLS)
    stack.push(within - CELLS, NORMAL, mean - middle, std)
    stack.push(part, PARTS, np.zeros(len(cells)), np.full(len(cells), PART_STD))


def pop_normal(
    stack: Stack, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The inverse of :func:`push_normal`."""
    middle = np.round(mean).astype(np.int64)
    part = stack.pop(PARTS, np.zeros(len(mean)), np.full(len(mean), PART_STD)).astype(np.int64)
    return middle + 2 * CELLS * part + stack.pop(NORMAL, mean - middle, std)


def as_array(values: Tensor) -> NDArray[np.float64]:
    """Float64 (n), flattened."""
    array: NDArray[np.float64] = values.detach().double().cpu().reshape(-1).numpy()
    return array


def as_tensor(cells: NDArray[np.int64], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cells as a tensor of whole numbers on the device of another."""
    return torch.from_numpy(np.ascontiguousarray(cells)).to(like.device).reshape(shape)
