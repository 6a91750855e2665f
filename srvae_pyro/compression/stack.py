"""The stack of bits: asymmetric numeral systems by the library constriction."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

__all__ = ["CATEGORICAL", "MismatchError", "Stack", "uniform"]

HEAD = 2  # words of the coder's state, which are not in its bulk
WORD = 32  # bits
MOST = 24  # bits that a symbol takes at most: the coder's probabilities are multiples of 2^-24
SEED = 1901_04866

Symbols = NDArray[np.int32]

# Rows of probabilities (symbols, values), which it requantises; each value gets some.
CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_UNIFORM = constriction.stream.model.Uniform()


class MismatchError(Exception):
    """What is on the stack is not what the model can have put there."""


def uniform(sizes: NDArray[Any]) -> tuple[Any, Symbols]:
    """The model of symbols that are uniform below ``sizes``, each at least 2, with its argument."""
    return _UNIFORM, np.ascontiguousarray(sizes, dtype=np.int32)


class Stack:
    """Symbols pushed and popped, the last first, under models of constriction.

    Popping what was not pushed takes random words from a reserve below, a fixed stream: from an
    empty coder the symbols would be biased. The words that were touched stay on the stack, and are
    what bits-back coding costs to start with; one that takes all symbols off again finds them as
    they were, which is a check.

    References:
        Townsend et al., Practical Lossless Compression with Latent Variables using Bits Back
        Coding, 2019, arXiv:1901.04866; Bamler, Understanding Entropy Coding With Asymmetric Numeral
        Systems, 2022, arXiv:2201.01741, for the library.

    Args:
        words: uint32, what :meth:`words` returned; without, a stack to push to.

    Example:
        >>> stack = Stack()
        >>> sizes = np.array([6, 6, 10])
        >>> thrown = stack.pop(*uniform(sizes))
        >>> stack.push(np.array([5, 0, 9]), *uniform(sizes))
        >>> again = Stack(stack.words())
        >>> again.pop(*uniform(sizes)).tolist()
        [5, 0, 9]
        >>> again.push(thrown, *uniform(sizes))
        >>> again.is_at_start()
        True
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
        """Put symbols (n) on the stack, so that :meth:`pop` gives them back in their order."""
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
        """Take as many symbols off the stack as there are rows of ``parameters``.

        Raises:
            MismatchError: it has fewer.
        """
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
        """All that is on the stack, uint32, without those of the reserve that were not touched."""
        words: NDArray[np.uint32] = self.coder.get_compressed()
        return words[max(self.reserved - self.start_words, 0) :]

    def is_at_start(self) -> bool:
        """Whether nothing is left but a reserve as it was."""
        left = self.coder.get_compressed()
        return len(left) >= HEAD and np.array_equal(left, _reserve(len(left)))

    def _deepen(self, symbols: int) -> None:
        """Have enough words for so many symbols; words below the others change nothing else."""
        missing = symbols * MOST // WORD + HEAD + 1 - self.coder.num_words()
        if missing <= 0:
            return
        more = self.reserved + missing
        words = [_reserve(more)[:missing], self.coder.get_compressed()]
        self.coder = constriction.stream.stack.AnsCoder(np.concatenate(words))
        self.reserved = more


def _reserve(count: int) -> NDArray[np.uint32]:
    """The first words of the reserve, the very first at the end, which is the top."""
    # Raw output, which NumPy promises never to change.
    words = np.random.PCG64(SEED).random_raw(count).astype(np.uint32)
    words[:1] |= 1  # the coder wants no zero on top
    return words[::-1]
