"""Asymmetric numeral systems: a stack of bits, and latents on a grid that are pushed and popped.

A latent is a whole number of steps of 2^-10, in units of its prior. Prior and posterior share the
step, so it cancels in what a latent costs.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HEAD = 2  # words of the coder's state, which are not in its bulk
WORD = 32  # bits
SYMBOL_BITS = (
    24  # bits that a symbol takes at most: the coder's probabilities are multiples of 2^-24
)
SEED = 1901_04866

Symbols = NDArray[np.int32]

# Rows of probabilities (symbols, values), which it requantises; each value gets some.
CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_UNIFORM = constriction.stream.model.Uniform()


class MismatchError(Exception):
    """The stack holds what the model cannot have pushed."""


def uniform(sizes: NDArray[Any]) -> tuple[Any, Symbols]:
    """The model of uniform symbols below ``sizes``, each at least 2, and its argument."""
    return _UNIFORM, np.ascontiguousarray(sizes, dtype=np.int32)


class Stack:
    """Symbols pushed and popped, the last first, under models of constriction.

    Popping what was not pushed takes random words from a reserve, a fixed stream: from an empty
    coder the symbols would be biased. These words are what bits-back coding costs to start with;
    whoever takes all symbols off again finds the reserve unchanged, which is a check.

    References:
        Townsend et al., 2019, arXiv:1901.04866; Bamler, 2022, arXiv:2201.01741, for the library.
    """

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        self.reserved = 0 if words is not None else HEAD + 1
        start = _reserve(self.reserved) if words is None else words
        try:
            self.coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(start))
        except ValueError as error:
            raise MismatchError(str(error)) from None
        self.deepens = words is None
        self.start_words = HEAD  # of the reserve that were touched
        self.popped = self.pushed = 0.0  # bits so far

    def push(self, symbols: NDArray[Any], model: Any, *parameters: NDArray[Any]) -> None:
        """Push symbols (n); :meth:`pop` returns them in their order."""
        if not len(symbols):
            return
        before = self.coder.num_valid_bits()
        try:
            self.coder.encode_reverse(
                np.ascontiguousarray(symbols, dtype=np.int32), model, *parameters
            )
        except (ValueError, KeyError) as error:
            raise MismatchError(str(error)) from None
        self.pushed += self.coder.num_valid_bits() - before

    def pop(self, model: Any, *parameters: NDArray[Any]) -> Symbols:
        """Pop as many symbols as there are rows of ``parameters``."""
        if not len(parameters[0]):
            return np.empty(0, np.int32)
        if self.deepens:
            self._deepen(len(parameters[0]))
        before = self.coder.num_valid_bits()
        try:
            symbols: Symbols = self.coder.decode(model, *parameters)
        except (ValueError, KeyError) as error:
            raise MismatchError(str(error)) from None
        self.popped += before - self.coder.num_valid_bits()
        bulk = self.coder.num_words() - HEAD
        if self.deepens:
            self.start_words = max(self.start_words, self.reserved - bulk)
        elif bulk < 0:
            raise MismatchError("there are fewer words on the stack than it started with")
        return symbols

    def words(self) -> NDArray[np.uint32]:
        """All words, uint32, without those of the reserve that were not touched."""
        words: NDArray[np.uint32] = self.coder.get_compressed()
        return words[max(self.reserved - self.start_words, 0) :]

    def is_at_start(self) -> bool:
        """Whether nothing but an unchanged reserve is left."""
        left = self.coder.get_compressed()
        return len(left) >= HEAD and np.array_equal(left, _reserve(len(left)))

    def _deepen(self, symbols: int) -> None:
        """Extend the reserve so that so many symbols can be popped."""
        missing = symbols * SYMBOL_BITS // WORD + HEAD + 1 - self.coder.num_words()
        if missing <= 0:
            return
        more = self.reserved + missing
        words = [_reserve(more)[:missing], self.coder.get_compressed()]
        self.coder = constriction.stream.stack.AnsCoder(np.concatenate(words))
        self.reserved = more


def _reserve(count: int) -> NDArray[np.uint32]:
    """The first words of the reserve, the very first on top."""
    # Raw output, which NumPy promises never to change.
    words = np.random.PCG64(SEED).random_raw(count).astype(np.uint32)
    words[:1] |= 1  # the coder wants no zero on top
    return words[::-1]


STEP = 2.0**-10
LEAST_BITS = 11  # of an element under a standard normal: its likeliest cell takes 11.3
# Of the posterior: buckets of a tenth of its standard deviation, out to 6.4 of them.
BUCKETS, REACH = 128, 6.4
PI, TERMS = Decimal("3.14159265358979323846264338327950288419716939937510"), 150
LEAST_WIDE = 32.0  # cells that it has as its standard deviation: 3 a bucket
MOST_WIDE = 2.0**18
FAR = 2.0**21  # cells
# Of the prior: cells in one model of the coder's, and parts of so many cells beside it.
CELLS = 2**15
NORMAL = constriction.stream.model.QuantizedGaussian(-CELLS, CELLS - 1)
PARTS = constriction.stream.model.QuantizedGaussian(-128, 127)
PART_STD = 0.05  # so that the part 0 has next to all of the mass


def _masses() -> NDArray[np.float64]:
    """The buckets' masses by decimal arithmetic, whose digits are the same everywhere."""
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
    r"""A diagonal normal on the grid, in buckets of a tenth of its standard deviation.

    A bucket is a symbol of a fixed table; the cell within it is uniform. The KL from the normal is
    about :math:`h^2/24`, h = 0.1: 0.0006 bits an element. A table of all cells would now and then
    draw one from far away, as the coder gives each value some mass. Means and deviations (n) are in
    cells.
    """

    masses = _masses()

    def __init__(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError("a posterior has values that are not finite")
        # Rounded far below what matters, so that last bits seldom do.
        self.middle = np.clip(np.round(16 * mean) / 16, -FAR, FAR)
        self.width = np.clip(np.round(64 * std) / 64, LEAST_WIDE, MOST_WIDE) * (2 * REACH / BUCKETS)

    def _edge(self, bucket: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first cell of each element's bucket."""
        edge = np.floor(self.middle + (bucket - BUCKETS // 2) * self.width)
        return edge.astype(np.int64)

    def _table(self) -> NDArray[np.float64]:
        return np.broadcast_to(self.masses, (len(self.middle), BUCKETS)).copy()

    def pop(self, stack: Stack) -> NDArray[np.int64]:
        """Draw the cells, (n), from the stack's bits."""
        bucket = stack.pop(CATEGORICAL, self._table()).astype(np.int64)
        first = self._edge(bucket)
        return first + stack.pop(*uniform(self._edge(bucket + 1) - first))

    def push(self, stack: Stack, cells: NDArray[np.int64]) -> None:
        """Push back what drawing these cells took."""
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
    """Push cells (n) under normals, in cells; cells beyond 2^15 cost more than under the normal."""
    middle = np.round(mean).astype(np.int64)
    part, within = np.divmod(cells - middle + CELLS, 2 * CELLS)
    stack.push(within - CELLS, NORMAL, mean - middle, std)
    stack.push(part, PARTS, np.zeros(len(cells)), np.full(len(cells), PART_STD))


def pop_normal(
    stack: Stack, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.int64]:
    middle = np.round(mean).astype(np.int64)
    part = stack.pop(PARTS, np.zeros(len(mean)), np.full(len(mean), PART_STD)).astype(np.int64)
    return middle + 2 * CELLS * part + stack.pop(NORMAL, mean - middle, std)


def as_array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.detach().double().cpu().reshape(-1).numpy()
    return array


def as_tensor(cells: NDArray[np.int64], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(cells)).to(like.device).reshape(shape)
